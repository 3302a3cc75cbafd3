#!/bin/busybox sh
# The first process in a virtual machine of `cargo xtask vm`: mounts what the tests expect of a machine, runs the commands
# in /commands one after another, says how each ended, and ends the machine.
/bin/busybox mkdir -p /applets /proc /sys /dev /tmp /run /root /var/tmp /var/lib /var/log /etc
/bin/busybox mount -t proc proc /proc
export PATH=/bin:/applets
/bin/busybox --install -s /applets
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
# As on Raspberry Pi OS, whose kernels have no BTF.
if [ -d /sys/kernel/btf ]; then mount -t tmpfs none /sys/kernel/btf; fi
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 none /sys/fs/cgroup
for module in /modules/*; do
    insmod "$module" || echo "cannot load $module"
done
ip link set lo up
# What the C library and the servers look for on any machine.
echo 'root:x:0:0:root:/root:/bin/sh' >/etc/passwd
echo 'root:x:0:' >/etc/group
echo 'hosts: files dns' >/etc/nsswitch.conf
echo '127.0.0.1 localhost' >/etc/hosts
: >/etc/resolv.conf
# Every limit of the lab is for a machine, and this is slower by far: loading the programs takes most of a minute on a busy host.
export BERRYLB_LAB_PATIENCE=20 BERRYLB_BPF_OBJECT=/berrylb.o BERRYLB_MALFORMED=200 RUST_BACKTRACE=0 RUST_TEST_THREADS=1 NO_COLOR=1
echo "kernel $(uname -r) $(uname -m), pages of $(sed -n 's/^KernelPageSize: *//p' /proc/self/smaps | head -n 1)"
while read -r command; do
    echo "\$ $command"
    $command </dev/null
    echo "ended with $?: $command"
done </commands
poweroff -f
