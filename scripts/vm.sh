#!/bin/sh
# What `cargo xtask vm` needs root for: a Debian 12 in a folder of its own that holds the emulators and Debian's kernels
# (on the machine itself, installing an emulator can remove packages), and booting one of them there. Nothing is mounted
# into the folder, so it can be removed as any other. It takes apt's sources from this machine, so that has to be Debian 12.
# ARCH is amd64 or arm64. VERSION is such as 6.1, or 6.12-16k for a kernel with pages of 16 KiB.
# usage: sh scripts/vm.sh kernel DIR ARCH VERSION      brings a kernel into DIR/kernels/ARCH-VERSION
#        sh scripts/vm.sh programs DIR ARCH            brings what the story's play starts into DIR/programs-ARCH
#        sh scripts/vm.sh boot DIR ARCH VERSION IMAGE SECONDS
#                                                      boots with that initramfs; its console is standard output, and its
#                                                      time is limited
set -eu

die() {
    printf 'error: %s\nNext step: %s\n' "$1" "$2" >&2
    exit 1
}

what=$1 dir=$2 arch=$3 version=${4-}
kernel=$dir/kernels/$arch-$version
programs=$dir/programs-$arch
log=$dir.log

# Runs a command with its output kept for the case that it fails.
quietly() {
    "$@" >>"$log" 2>&1 </dev/null || {
        tail -n 25 "$log" >&2
        die "\`$*\` failed" "see $log; \`rm -r $dir\` starts anew"
    }
}

# The same for what comes from a mirror, which may be out of order for a moment.
fetch() {
    for pause in 10 30; do
        if "$@" >>"$log" 2>&1 </dev/null; then return; fi
        printf 'vm: `%s` failed, and is tried again in %s s\n' "$*" "$pause" >&2
        sleep "$pause"
    done
    quietly "$@"
}

inside() {
    env DEBIAN_FRONTEND=noninteractive LC_ALL=C chroot "$dir" "$@"
}

# Debian's own packages come from wherever this machine takes them.
find_mirror() {
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' 'Created-By: Packages' | head -n 1)
    [ -n "$mirror" ] || die "apt has no lists of Debian 12" "on Debian 12: apt-get update"
}

make_system() {
    [ "$(dpkg --print-architecture)" = amd64 ] || die "the emulators' Debian is one for amd64" "use a Debian 12 on amd64"
    find_mirror
    rm -rf "$dir"
    mkdir -p "$dir"
    printf 'vm: a Debian 12 with emulators in %s, once\n' "$dir" >&2
    fetch debootstrap --variant=minbase bookworm "$dir" "$mirror"
    rm -f "$dir/etc/apt/sources.list"
    cp -R /etc/apt/apt.conf.d /etc/apt/sources.list.d "$dir/etc/apt/"
    if [ -e /etc/apt/sources.list ]; then cp /etc/apt/sources.list "$dir/etc/apt/"; fi
    cp /etc/hosts /etc/resolv.conf "$dir/etc/"
    # Debian 11 has the oldest kernel that we support; of its suites these two are left.
    for list in "$dir"/etc/apt/sources.list "$dir"/etc/apt/sources.list.d/*; do
        case $list in
            *.list) edit='/bookworm-\(updates\|backports\)/d' ;;
            *.sources) edit='/^Suites:/s/bookworm-\(updates\|backports\)//g' ;;
            *) continue ;;
        esac
        if grep -q bookworm "$list" 2>/dev/null; then
            sed -e "$edit" -e 's/bookworm/bullseye/g' "$list" >"${list%.*}-bullseye.${list##*.}"
        fi
    done
    if [ -e "$dir/etc/apt/sources-bullseye.list" ]; then mv "$dir/etc/apt/sources-bullseye.list" "$dir/etc/apt/sources.list.d/"; fi
    quietly inside dpkg --add-architecture arm64
    fetch inside apt-get update
    fetch inside apt-get install -y --no-install-recommends qemu-system-x86 qemu-system-arm kmod xz-utils
    touch "$dir/with-arm64"
}

# The newest build of that version. Those for virtual machines have no drivers that would need firmware, and boot fast;
# with other pages there is none of them.
unpack_kernel() {
    printf 'vm: kernel %s %s\n' "$arch" "$version" >&2
    case $version in
        *-16k) flavour=$arch-16k ;;
        *) flavour=cloud-$arch ;;
    esac
    name=$(chroot "$dir" apt-cache pkgnames "linux-image-${version%-16k}." | grep "[0-9]\(+deb12\)\?-$flavour\$" |
        grep -v 'deb11' | sort -V | tail -n 1)
    [ -n "$name" ] || die "the sources in /etc/apt have no kernel $version for $arch" "add Debian's security suite to them"
    rm -rf "$kernel" "$kernel.part"
    mkdir -p "$kernel.part/load"
    part=/kernels/$arch-$version.part
    fetch inside sh -c "cd $part && apt-get download $name:$arch busybox-static:$arch && for i in *.deb; do dpkg-deb -x \$i . && rm \$i; done"
    mv "$kernel.part"/boot/vmlinuz-* "$kernel.part/vmlinuz"
    release=$(ls "$kernel.part/lib/modules")
    quietly inside depmod -b "$part" "$release"
    # In the order in which they can be loaded, each once, and plain, as not every kernel unpacks them.
    number=10
    chroot "$dir" modprobe -d "$part" -S "$release" -D -a veth vxlan bridge br_netfilter sch_ingress cls_bpf nf_tables nft_chain_nat nft_masq nft_ct nft_reject_inet |
        sed -n 's/^insmod //p' | awk '!seen[$0]++' | while read -r module; do
        to=$part/load/$number-$(basename "${module%.xz}")
        case $module in
            *.xz) quietly inside sh -c "xz -dc '$module' >'$to'" ;;
            *) quietly inside cp "$module" "$to" ;;
        esac
        number=$((number + 1))
    done
    chmod -R a+rX "$kernel.part"
    mv "$kernel.part" "$kernel"
}

# Unpacked, not installed: nothing of another architecture runs here.
unpack_programs() {
    find_mirror
    printf 'vm: the servers of the story for %s\n' "$arch" >&2
    rm -rf "$programs" "$programs.part"
    fetch debootstrap --foreign --variant=minbase --arch="$arch" \
        --include=nginx-light,redis-server,dnsmasq-base,curl,iproute2,nftables,ethtool,knot-dnsutils,bpftool,busybox-static \
        bookworm "$programs.part" "$mirror"
    for package in "$programs.part"/var/cache/apt/archives/*.deb; do
        quietly dpkg-deb -x "$package" "$programs.part"
    done
    rm -rf "$programs.part/var/cache/apt"
    chmod -R a+rX "$programs.part"
    mv "$programs.part" "$programs"
}

[ -e "$dir/with-arm64" ] || make_system
case $what in
    kernel) [ -e "$kernel/vmlinuz" ] || unpack_kernel ;;
    programs) [ -e "$programs" ] || unpack_programs ;;
    boot)
        image=$dir/tmp/initramfs-$arch-$version
        cp "$5" "$image"
        # Two processors, so that there is somebody to race with, and no network. A panic ends the emulator, and so does
        # time.
        case $arch in
            amd64) emulator='qemu-system-x86_64 -machine accel=tcg -cpu max' console=ttyS0 ;;
            # A Raspberry Pi 5's, which takes three quarters of the time of one with all that there is.
            arm64) emulator='qemu-system-aarch64 -machine virt,accel=tcg -cpu cortex-a76' console=ttyAMA0 ;;
        esac
        # shellcheck disable=SC2086
        exec timeout "$6" nice -n 5 chroot "$dir" $emulator -smp 2 -m 2G -nic none -display none -monitor none \
            -serial stdio -no-reboot -kernel "/kernels/$arch-$version/vmlinuz" -initrd "/tmp/initramfs-$arch-$version" \
            -append "console=$console panic=-1 quiet" </dev/null
        ;;
    *) die "unknown task \"$what\"" "kernel, programs or boot" ;;
esac
