#!/bin/bash
# Builds the guest that these tests boot: Debian's cloud kernel, and busybox and the guest agent in a cpio archive.
# Usage: micro-guest.sh DIRECTORY. Leaves DIRECTORY/vmlinuz and DIRECTORY/initrd, and nothing if it fails.
set -euo pipefail
out=$1
packages=$out/packages
root=$out/root
mkdir -p "$packages"
rm -rf "$root"

kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-6.*\)$/\1/p' | head -n 1)
version=${kernel#linux-image-}
for package in "$kernel" busybox-static qemu-guest-agent; do
    [ -d "$packages/$package" ] && continue
    (cd "$packages" && apt-get download -q "$package" >/dev/null)
    dpkg-deb -x "$packages/${package}"_*.deb "$packages/$package.part"
    mv "$packages/$package.part" "$packages/$package"
done

mkdir -p "$root"/{bin,sbin,dev,proc,sys,run,tmp,etc,root,lib/modules,usr/sbin,usr/bin}
cp "$packages/busybox-static/bin/busybox" "$root/bin/busybox"
for applet in $("$root/bin/busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
agent=$packages/qemu-guest-agent/usr/sbin/qemu-ga
cp "$agent" "$root/usr/sbin/qemu-ga"
for library in $(ldd "$agent" | grep -o '/lib[^ ]*'); do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done
modules="virtio/virtio_ring virtio/virtio virtio/virtio_pci_modern_dev virtio/virtio_pci_legacy_dev virtio/virtio_pci
char/virtio_console block/virtio_blk char/hw_random/virtio-rng firmware/qemu_fw_cfg net/net_failover net/virtio_net
misc/pvpanic/pvpanic misc/pvpanic/pvpanic-pci misc/pvpanic/pvpanic-mmio"
for module in $modules; do
    cp "$packages/$kernel/lib/modules/$version/kernel/drivers/$module.ko" "$root/lib/modules/" 2>/dev/null || true
done
cp "$packages/$kernel/lib/modules/$version/kernel/net/core/failover.ko" "$root/lib/modules/"

cat >"$root/init" <<'INIT'
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t devtmpfs d /dev; mount -t proc p /proc; mount -t sysfs s /sys; mount -t tmpfs t /run
echo "guest: userspace" >/dev/console
cd /lib/modules
for m in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_console; do insmod $m.ko; done
( for m in pvpanic pvpanic-pci pvpanic-mmio virtio_blk failover net_failover virtio_net virtio-rng qemu_fw_cfg; do insmod $m.ko; done 2>/dev/null
  ip link set lo up; echo "guest: modules" >/dev/console ) &
mkdir -p /dev/virtio-ports
until [ -e /dev/virtio-ports/org.qemu.guest_agent.0 ]; do
  for p in /sys/class/virtio-ports/*; do [ -e $p/name ] || continue; read n <$p/name; ln -sf /dev/${p##*/} /dev/virtio-ports/$n; done
  sleep 0.02
done
echo "guest: agent" >/dev/console
cd /
exec /usr/sbin/qemu-ga -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run -f /run/qga.pid >/dev/null 2>&1 </dev/null
INIT
chmod 755 "$root/init"
(cd "$root" && find . -print0 | LC_ALL=C sort -z | cpio --null -o -H newc -R 0:0 --quiet) >"$out/initrd.part"
cp "$packages/$kernel/boot/vmlinuz-$version" "$out/vmlinuz.part"
mv "$out/vmlinuz.part" "$out/vmlinuz"
mv "$out/initrd.part" "$out/initrd"
rm -rf "$root"
