#!/usr/bin/env bash
# Check what a machine must have before set-up, one sentence for each thing missing; print the Python to use.
#
#     python="$(environment/prerequisites.sh)"

missing=0

complain() {
    printf 'error: %s\n' "$1" >&2
    missing=1
}

# The first Python 3.11 found: a name on PATH may be a shim that does not start, so it is run, not only looked up.
find_python() {
    local name
    for name in python3.11 python3 python; do
        if "$name" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; then
            "$name" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

check_python() {
    if ! python="$(find_python)"; then
        complain 'Python 3.11 is missing: install it so that python3.11 or python3 on PATH is that version (Debian: apt-get install python3.11 python3.11-venv python3.11-dev).'
        return
    fi
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
        complain "$python cannot make virtual environments: install its venv and ensurepip modules (Debian: apt-get install python3.11-venv)."
    "$python" -c 'import os, sysconfig; open(os.path.join(sysconfig.get_paths()["include"], "Python.h"))' >/dev/null 2>&1 ||
        complain "$python has no C headers, which Horovod compiles against: install them (Debian: apt-get install python3.11-dev)."
}

check_java() {
    local java="${JAVA_HOME:+$JAVA_HOME/bin/}java" version
    version="$("$java" -version 2>&1)"
    case "$version" in
        *'version "17'* | *'version "21'*) ;;
        *'version "'*)
            version="${version#*version \"}"
            complain "Java is version ${version%%\"*} ($java), but Spark 4.0 needs 17 or 21: install one (Debian: apt-get install openjdk-17-jre-headless) and put it first on PATH or set JAVA_HOME."
            ;;
        *) complain "Java is missing ($java does not run): install version 17 or 21 (Debian: apt-get install openjdk-17-jre-headless)." ;;
    esac
}

check_compiler() {
    local name
    for name in "${CXX:-c++}" c++ g++ clang++; do
        "$name" --version >/dev/null 2>&1 && return
    done
    complain 'A C++ compiler is missing, which builds Horovod: install one (Debian: apt-get install g++).'
}

check_command() {
    command -v "$1" >/dev/null 2>&1 || complain "$1 is missing: install it (Debian: apt-get install $1)."
}

check_command git
check_command make
check_python
check_compiler
check_java
if [ "$missing" = 0 ]; then printf '%s\n' "$python"; else exit 1; fi
