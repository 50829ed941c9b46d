#!/bin/busybox sh
# The first process of a guest: runs the jobs in /jobs, a name and a command a line, and says on the console how each ended.
/bin/busybox --install -s /bin
export PATH=/tools:/bin:/sbin:/usr/bin:/usr/sbin HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
mkdir /run/netns
for module in $(cat /modules/order); do
    insmod "/modules/$module" || echo "module $module does not load"
done
# The distribution's default for root, which a first process does not have.
ulimit -n 65536
echo "@guest booted $(uname -r)"
while IFS="$(printf '\t')" read -r name command; do
    printf '\n@guest begin %s\n' "$name"
    eval "$command" </dev/null 2>&1
    printf '\n@guest end %s %s\n' "$?" "$name"
done </jobs
echo "@guest done"
poweroff -f
