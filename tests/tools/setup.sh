#!/usr/bin/env bash
# Sees to it that what `make run` or `make test` needs from the system is there. As root on Debian or Ubuntu it installs what is
# missing; elsewhere it names everything missing in one message. Fast and silent when all is there.
#
#   setup.sh run     what building and starting the program needs
#   setup.sh test    that, and what the checks and tests need (a Java runtime and Maven for a real Kafka, kcat, PostgreSQL, cargo-deny, schemathesis,
#                    the reference implementations of Standard Webhooks)
set -euo pipefail

what="${1:-test}"
CARGO_DENY_VERSION=0.20.2
JAVA_MAJOR_MIN=17
# Fuzzes the REST interface by its OpenAPI document.
SCHEMATHESIS_VERSION=4.32.5
SCHEMATHESIS_HOME="$(cd "$(dirname "$0")/../.." && pwd)/target/tools/schemathesis-$SCHEMATHESIS_VERSION"

# The reference implementations of Standard Webhooks, which check our signatures.
STANDARDWEBHOOKS_PY=1.1.0
STANDARDWEBHOOKS_JS=1.1.1
STANDARDWEBHOOKS_HOME="${SCHEMATHESIS_HOME%/*}/standardwebhooks-$STANDARDWEBHOOKS_PY-$STANDARDWEBHOOKS_JS"

# Reads protobuf by proto files, for the test that somebody else can read our topics.
PROTOBUFJS_VERSION=8.8.1
PROTOBUFJS_HOME="${SCHEMATHESIS_HOME%/*}/protobufjs-$PROTOBUFJS_VERSION"

have() { command -v "$1" >/dev/null 2>&1; }

# The major version of the Java on the path, or nothing.
java_major() {
  have java || return 0
  java -version 2>&1 | sed -nE '1s/.*version "([0-9]+).*/\1/p'
}

# Why the C compiler is not enough by itself: librdkafka and OpenSSL are built from source and need the C library's headers, too.
c_compiler_works() {
  have cc && echo '#include <stdio.h>
int main(void) { return 0; }' | cc -x c -fsyntax-only - >/dev/null 2>&1
}

python_works() {
  have python3 && python3 -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

# Debian keeps the server's programs off the path.
postgres_is_there() {
  have initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null
}

missing_packages=()   # Debian's names
missing_words=()      # the same for people
need() { missing_packages+=("$1"); missing_words+=("$2"); }

look() {
  missing_packages=(); missing_words=()
  c_compiler_works || need "gcc libc6-dev" "a C compiler with the C library's headers (gcc, libc6-dev)"
  have g++ || need "g++" "a C++ compiler (g++)"
  have make || need "make" "make"
  have perl || need "perl" "perl (builds OpenSSL)"
  if [ "$what" = test ]; then
    local java; java="$(java_major)"
    if [ -z "$java" ] || [ "$java" -lt "$JAVA_MAJOR_MIN" ]; then
      need "$(java_package)" "a Java runtime, $JAVA_MAJOR_MIN or newer (openjdk-17-jre-headless)"
    fi
    have mvn || need "maven" "Maven (maven)"
    have kcat || have kafkacat || need "$(kcat_package)" "kcat (kcat, formerly kafkacat)"
    postgres_is_there || need "postgresql" "PostgreSQL's server (postgresql)"
    have curl || need "curl" "curl"
    have node || need "nodejs" "Node.js (nodejs)"
    have npm || need "npm" "npm (npm)"
    python_works || need "python3-venv" "Python 3.10 or newer with venv (python3, python3-venv)"
  fi
}

java_package() {
  # The newest long-term release that the distribution has and the pinned Kafka runs on.
  local p
  for p in openjdk-21-jre-headless openjdk-17-jre-headless; do
    if have apt-cache && [ -n "$(apt-cache --quiet=2 policy "$p" 2>/dev/null | sed -n '/Candidate: [^(]/p')" ]; then
      echo "$p"; return
    fi
  done
  echo default-jre-headless
}

kcat_package() {
  if have apt-cache && [ -n "$(apt-cache --quiet=2 policy kcat 2>/dev/null | sed -n '/Candidate: [^(]/p')" ]; then
    echo kcat
  else
    echo kafkacat
  fi
}

rust_parts() {
  if ! have cargo; then
    echo "hookline needs a Rust toolchain (1.90 or newer): see https://rustup.rs" >&2
    exit 1
  fi
  [ "$what" = test ] || return 0
  local missing=()
  cargo fmt --version >/dev/null 2>&1 || missing+=(rustfmt)
  cargo clippy --version >/dev/null 2>&1 || missing+=(clippy)
  [ ${#missing[@]} -eq 0 ] && return 0
  if have rustup; then
    rustup component add "${missing[@]}"
  else
    echo "the Rust toolchain lacks ${missing[*]}: install them (rustup component add ${missing[*]}, or your distribution's packages)" >&2
    exit 1
  fi
}

cargo_deny() {
  [ "$what" = test ] || return 0
  cargo deny --version >/dev/null 2>&1 && return 0
  echo "installing cargo-deny $CARGO_DENY_VERSION (once, a few minutes)" >&2
  cargo install --locked --quiet "cargo-deny@$CARGO_DENY_VERSION"
}

# Complete once its mark stands there.
schemathesis() {
  [ "$what" = test ] || return 0
  [ -e "$SCHEMATHESIS_HOME/.complete" ] && return 0
  echo "installing schemathesis $SCHEMATHESIS_VERSION (once, under a minute)" >&2
  rm -rf "${SCHEMATHESIS_HOME%-*}"-* # other versions, too
  python3 -m venv "$SCHEMATHESIS_HOME"
  "$SCHEMATHESIS_HOME/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$SCHEMATHESIS_VERSION"
  touch "$SCHEMATHESIS_HOME/.complete"
}

standardwebhooks() {
  [ "$what" = test ] || return 0
  [ -e "$STANDARDWEBHOOKS_HOME/.complete" ] && return 0
  echo "installing the reference implementations of Standard Webhooks (once, under a minute)" >&2
  rm -rf "${STANDARDWEBHOOKS_HOME%/*}"/standardwebhooks-*
  python3 -m venv "$STANDARDWEBHOOKS_HOME/python"
  "$STANDARDWEBHOOKS_HOME/python/bin/pip" install --quiet --disable-pip-version-check "standardwebhooks==$STANDARDWEBHOOKS_PY"
  mkdir -p "$STANDARDWEBHOOKS_HOME/node"
  npm install --silent --no-audit --no-fund --prefix "$STANDARDWEBHOOKS_HOME/node" "standardwebhooks@$STANDARDWEBHOOKS_JS" >/dev/null
  touch "$STANDARDWEBHOOKS_HOME/.complete"
}

protobufjs() {
  [ "$what" = test ] || return 0
  [ -e "$PROTOBUFJS_HOME/.complete" ] && return 0
  echo "installing protobufjs $PROTOBUFJS_VERSION (once, a few seconds)" >&2
  rm -rf "${PROTOBUFJS_HOME%-*}"-*
  mkdir -p "$PROTOBUFJS_HOME"
  npm install --silent --no-audit --no-fund --prefix "$PROTOBUFJS_HOME" "protobufjs@$PROTOBUFJS_VERSION" >/dev/null
  touch "$PROTOBUFJS_HOME/.complete"
}

look
if [ ${#missing_packages[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && have apt-get; then
    echo "installing from the distribution: ${missing_packages[*]}" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    look # with fresh lists the names of Java and kcat may differ
    # shellcheck disable=SC2086 # an entry may hold two names
    apt-get install -y -qq --no-install-recommends ${missing_packages[*]} >/dev/null
    look
  fi
  if [ ${#missing_packages[@]} -gt 0 ]; then
    {
      echo "to ${what} hookline this machine still needs:"
      printf '  - %s\n' "${missing_words[@]}"
      echo "on Debian or Ubuntu: sudo apt-get install ${missing_packages[*]}"
    } >&2
    exit 1
  fi
fi
rust_parts
cargo_deny
schemathesis
standardwebhooks
protobufjs
