#!/bin/sh
# What `cargo xtask vm` needs root for: a Debian 12 in a folder of its own that holds the emulator and Debian's kernels
# (on the machine itself, installing the emulator can remove packages), and booting one of them there. Nothing is mounted
# into the folder, so it can be removed as any other. It takes apt's sources from this machine, so that has to be Debian 12.
# usage: sh scripts/vm.sh kernel DIR VERSION         brings kernel VERSION, such as 6.1, into DIR/kernels/VERSION
#        sh scripts/vm.sh boot DIR VERSION IMAGE     boots it with that initramfs; its console is standard output
set -eu

die() {
    printf 'error: %s\nNext step: %s\n' "$1" "$2" >&2
    exit 1
}

what=$1 dir=$2 version=$3
kernel=$dir/kernels/$version
log=$dir.log

# Runs a command with its output kept for the case that it fails.
quietly() {
    "$@" >>"$log" 2>&1 </dev/null || {
        tail -n 25 "$log" >&2
        die "\`$*\` failed" "see $log; \`rm -r $dir\` starts anew"
    }
}

inside() {
    quietly env DEBIAN_FRONTEND=noninteractive LC_ALL=C chroot "$dir" "$@"
}

# Debian's own packages come from wherever this machine takes them.
make_system() {
    [ "$(dpkg --print-architecture)" = amd64 ] || die "only amd64's kernels are known here" "use a Debian 12 on amd64"
    rm -rf "$dir"
    mkdir -p "$dir"
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' 'Created-By: Packages' | head -n 1)
    [ -n "$mirror" ] || die "apt has no lists of Debian 12" "on Debian 12: apt-get update"
    printf 'vm: a Debian 12 with an emulator in %s, once\n' "$dir" >&2
    quietly debootstrap --variant=minbase bookworm "$dir" "$mirror"
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
    inside apt-get update
    inside apt-get install -y --no-install-recommends qemu-system-x86 busybox-static kmod xz-utils
    touch "$dir/complete"
}

# The newest build of that version for virtual machines: they have no drivers that would need firmware, and boot fast.
unpack_kernel() {
    printf 'vm: kernel %s\n' "$version" >&2
    name=$(chroot "$dir" apt-cache pkgnames "linux-image-$version." | grep '[0-9]\(+deb12\)\?-cloud-amd64$' |
        grep -v 'deb11' | sort -V | tail -n 1)
    [ -n "$name" ] || die "the sources in /etc/apt have no kernel $version" "add Debian's security suite to them"
    rm -rf "$kernel" "$kernel.part"
    mkdir -p "$kernel.part/load"
    inside sh -c "cd /kernels/$version.part && apt-get download $name && dpkg-deb -x *.deb . && rm *.deb"
    mv "$kernel.part"/boot/vmlinuz-* "$kernel.part/vmlinuz"
    release=$(ls "$kernel.part/lib/modules")
    inside depmod -b "/kernels/$version.part" "$release"
    # In the order in which they can be loaded, and plain, as not every kernel unpacks them.
    number=10
    chroot "$dir" modprobe -d "/kernels/$version.part" -S "$release" -D -a veth vxlan bridge sch_ingress cls_bpf |
        sed -n 's/^insmod //p' | while read -r module; do
        to=/kernels/$version.part/load/$number-$(basename "${module%.xz}")
        case $module in
            *.xz) inside sh -c "xz -dc '$module' >'$to'" ;;
            *) inside cp "$module" "$to" ;;
        esac
        number=$((number + 1))
    done
    chmod -R a+rX "$kernel.part"
    mv "$kernel.part" "$kernel"
}

case $what in
    kernel)
        [ -e "$dir/complete" ] || make_system
        [ -e "$kernel/vmlinuz" ] || unpack_kernel
        ;;
    boot)
        image=$dir/tmp/initramfs-$version
        cp "$4" "$image"
        # One processor and no network; a panic ends the emulator, and so does time.
        exec timeout 600 nice -n 5 chroot "$dir" qemu-system-x86_64 -machine accel=tcg -cpu max -smp 1 -m 1G -nic none \
            -display none -monitor none -serial stdio -no-reboot -kernel "/kernels/$version/vmlinuz" \
            -initrd "/tmp/initramfs-$version" -append 'console=ttyS0 panic=-1 quiet' </dev/null
        ;;
    *) die "unknown task \"$what\"" "kernel or boot" ;;
esac
