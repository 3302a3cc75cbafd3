#!/bin/busybox sh
# The first process in a virtual machine of `cargo xtask vm`: mounts what the tests expect of a machine, runs the commands
# in /commands one after another, and ends the machine.
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox mount -t proc proc /proc
export PATH=/bin:/applets
/bin/busybox --install -s /applets
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
# As on Raspberry Pi OS, whose kernels have no BTF.
if [ -d /sys/kernel/btf ]; then mount -t tmpfs none /sys/kernel/btf; fi
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 none /sys/fs/cgroup
for module in /modules/*; do
    insmod "$module" || echo "cannot load $module"
done
export BERRYLB_BPF_OBJECT=/berrylb.o BERRYLB_MALFORMED=200 RUST_BACKTRACE=0 RUST_TEST_THREADS=1
while read -r command; do
    echo "\$ $command"
    /$command </dev/null
done </commands
poweroff -f
