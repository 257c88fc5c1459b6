# Sourced by the set-up scripts: install a locked list of packages into a virtual environment with uv.

# uv does not read pip's settings, so a user's index in them is handed over.
adopt_pip_index() {
    local pip="$1/bin/pip" key
    for key in :env:.index-url global.index-url; do
        if [ -z "${UV_DEFAULT_INDEX:-}" ]; then
            UV_DEFAULT_INDEX="$("$pip" config get "$key" 2>/dev/null || true)"
        fi
    done
    if [ -n "$UV_DEFAULT_INDEX" ]; then export UV_DEFAULT_INDEX; else unset UV_DEFAULT_INDEX; fi
}

# install_locked VENV LOCK: exactly the lock's packages, each file checked against its hash. Where
# PYTHONDONTWRITEBYTECODE is set, as in many images, they are compiled too: otherwise every process would do that again.
install_locked() {
    "$1/bin/python" -m pip --quiet --disable-pip-version-check install --require-hashes -r environment/bootstrap.lock
    adopt_pip_index "$1"
    UV_SYSTEM_CERTS=1 "$1/bin/uv" --quiet pip sync ${PYTHONDONTWRITEBYTECODE:+--compile-bytecode} --python "$1/bin/python" --require-hashes "$2"
}
