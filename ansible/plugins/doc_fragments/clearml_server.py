# Copyright: (c) 2026, gpufleet developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a plugin finds the API server: options of all modules, and (PLUGIN) what an inventory plugin has besides."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  api_server:
    description:
      - Address of the API server, such as V(http://clearml:8008). It is not that of the web page.
      - Without it, the environment variable E(CLEARML_API_HOST) counts.
    type: str
    required: true
  access_key:
    description:
      - Access key of the credentials.
      - Without it, the environment variable E(CLEARML_API_ACCESS_KEY) counts.
    type: str
    required: true
  secret_key:
    description:
      - Secret key of the credentials.
      - Without it, the environment variable E(CLEARML_API_SECRET_KEY) counts.
    type: str
    required: true
  validate_certs:
    description: Whether the certificate of an C(https) server has to be valid.
    type: bool
    default: true
  ca_path:
    description: File with the certificates of the authorities to trust, instead of those of the host.
    type: path
  request_timeout:
    description: How many seconds the server may take for each request.
    type: float
    default: 30
notes:
  - A module reads environment variables on the host where it runs. Give them with C(environment), or delegate the task
    to C(localhost).
  - Proxies are taken from the usual environment variables, such as E(https_proxy).
"""

    PLUGIN = r"""
options:
  api_server:
    env:
      - name: CLEARML_API_HOST
  access_key:
    env:
      - name: CLEARML_API_ACCESS_KEY
  secret_key:
    env:
      - name: CLEARML_API_SECRET_KEY
"""
