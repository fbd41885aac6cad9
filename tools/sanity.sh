#!/usr/bin/env bash
# `ansible-test sanity` over the collection: documentation against argument specs, imports, style and what else Ansible
# demands of plugins. Run by `make sanity`; words after it are for ansible-test, such as `--test validate-modules`.
# ansible-test wants the collection as a repository of its own at a certain place, and keeps a home: both are in .cache.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=$PWD/${VENV:-.venv}/bin
place=$PWD/.cache/sanity/ansible_collections/gpufleet/clearml
rm -rf "$place"
mkdir -p "${place%/*}"
cp -r ansible "$place"
printf '/tests/output/\n__pycache__/\n' >"$place/.gitignore"

# A person's settings of pip hold in that home, too.
export XDG_CONFIG_HOME=${XDG_CONFIG_HOME:-$HOME/.config}
export HOME=$PWD/.cache/sanity/home PATH=$bin:$PATH
mkdir -p "$HOME/.ansible/test/cache"

# ansible-test makes environments without pip, and would fetch a script from a server of Ansible's to bring pip into them.
# Python has one with it. (Its setuptools disturbs pylint.)
internals=$("$bin/python" -c 'import ansible_test; print(ansible_test.__path__[0])')/_internal
for version in $(grep -oE "\bpip='[0-9.]+'" "$internals/python_requirements.py" | cut -d"'" -f2); do
    cat >"$HOME/.ansible/test/cache/get_pip_${version//./_}.py" <<'END'
import ensurepip, subprocess, sys
ensurepip.bootstrap()
subprocess.run([sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools"], check=True)
END
done

cd "$place"
git init --quiet
git add --all
exec ansible-test sanity --venv --python "$("$bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" "$@"
