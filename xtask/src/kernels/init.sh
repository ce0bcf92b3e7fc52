#!/bin/busybox sh
# The first program of a guest: makes the machine habitable, runs the tests, says how they ended.
# What it prints to the second serial line is read by `guest.rs`; the last word decides.
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin HOME=/tmp RUST_BACKTRACE=0
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
exec >/dev/ttyS1 2>&1
echo "guest: release $(uname -r)"
for module in /modules/*; do
    insmod "$module" || echo "guest: module $module was refused"
done
ip link set lo up
/datapath-tests --include-ignored --nocapture --test-threads=1 $(cat /filters)
echo "guest: status $?"
sync
poweroff -f
