#!/bin/sh
# Installs the Debian packages named as arguments: quietly, without recommended packages, without removing any package
# and without starting or enabling a service. The one place in this project that calls apt on the machine itself.
# usage: sh scripts/apt-install.sh [--arch ARCH] PACKAGE…
set -eu

die() {
    printf 'error: %s\nNext step: %s\n' "$1" "$2" >&2
    exit 1
}

arch=
if [ "$1" = --arch ]; then
    arch=$2
    shift 2
fi
by_hand="apt-get update && apt-get install -y --no-install-recommends $*"

command -v apt-get >/dev/null 2>&1 ||
    die "missing: $*, and this is not a Debian system (no apt-get)" \
        "bring what these Debian packages hold by your system's own means, and try again."

if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 ||
        die "missing: $*; installing them needs root, and there is no sudo" "as root: $by_hand"
    exec sudo -- sh "$0" ${arch:+--arch "$arch"} "$@"
fi

# Debian's hook against services that start when their package is unpacked. A file of somebody else's is left alone;
# one of ours that a killed run left behind is known by its mark.
policy=/usr/sbin/policy-rc.d
mark='# berrylb setup: temporary'
log=$(mktemp)
ours=
clean_up() {
    rm -f "$log"
    if [ -n "$ours" ]; then rm -f "$policy"; fi
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP
if [ ! -e "$policy" ] || grep -qxF "$mark" "$policy"; then
    ours=1
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy"
    chmod 755 "$policy"
fi

# The services that these packages would enable for the next boot, unless they are here already.
fresh=
for service in nginx redis-server; do
    case " $* " in *" $service "*) [ -e "/lib/systemd/system/$service.service" ] || fresh="$fresh $service" ;; esac
done

export DEBIAN_FRONTEND=noninteractive
if [ -n "$arch" ]; then dpkg --add-architecture "$arch"; fi
# One source that cannot be reached need not be the one with these packages, so this alone is no failure.
printf 'setup: apt-get update\n' >&2
apt-get update -qq -o Acquire::Retries=5 >"$log" 2>&1 || printf 'setup: apt-get update had errors; going on with the lists at hand\n' >&2
printf 'setup: apt-get install %s\n' "$*" >&2
if ! apt-get install -qq -y -o Acquire::Retries=5 --no-install-recommends --no-remove "$@" </dev/null >>"$log" 2>&1; then
    tail -n 25 "$log" >&2
    if grep -q 'Temporary failure resolving\|Could not resolve\|Could not connect\|Failed to fetch' "$log"; then
        die "apt-get could not fetch: $*" "check the network and the sources in /etc/apt, and try again."
    elif grep -q 'Unable to locate package\|has no installation candidate' "$log"; then
        die "the sources in /etc/apt do not have all of: $*" \
            "on Debian 12 add its security suite (deb http://deb.debian.org/debian-security bookworm-security main); \
elsewhere bring the same tools another way: rustup, and LLVM and bpf-linker as \`cargo xtask build-ebpf\` asks for."
    elif grep -q 'Packages need to be removed' "$log"; then
        die "installing $* would remove packages, which this script does not do" "see above; by hand: $by_hand"
    fi
    die "apt-get install failed" "by hand, to see why: $by_hand"
fi
for service in $fresh; do
    update-rc.d "$service" disable >>"$log" 2>&1 ||
        printf 'setup: could not keep %s from starting at the next boot: update-rc.d %s disable\n' "$service" "$service" >&2
done
