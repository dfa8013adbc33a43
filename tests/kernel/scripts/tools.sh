# sg3-utils and blkdiscard, as administrators use them.
iscsi-login "$TARGET" "$PORTAL"
disk=$(by-lun 1)
modprobe sg
sg_inq "$disk"
sg_vpd -p sv "$disk"
for page in sn di bl bdc lbpv; do sg_vpd -p "$page" "$disk"; done
sg_readcap -l "$disk"
sg_opcodes "$disk" | grep -i 'compare and write'

# persistent reservations
sg_persist --out --register --param-sark=abc123 "$disk"
sg_persist --out --reserve --param-rk=abc123 --prout-type=5 "$disk"
sg_persist -k "$disk" | grep 0xabc123
sg_persist -r "$disk" | grep 'Write Exclusive, registrants only'
sg_persist -c "$disk"
sg_persist -s "$disk"
sg_persist --out --release --param-rk=abc123 --prout-type=5 "$disk"
sg_persist --out --clear --param-rk=abc123 "$disk"
! sg_persist -k "$disk" | grep 0xabc123

# compare and write: once it fits, then it does not
head -c 512 /dev/zero >zeroes
head -c 512 /dev/urandom >noise
dd if=/dev/zero of="$disk" bs=1M count=4 oflag=direct
cat zeroes noise >both
sg_compare_and_write --in=both --lba=8 --num=1 --xferlen=1024 "$disk"
! sg_compare_and_write --in=both --lba=8 --num=1 --xferlen=1024 "$disk"
dd if="$disk" bs=512 skip=8 count=1 iflag=direct | cmp - noise

# a third-party copy inside of the unit
dd if=/dev/urandom of=data bs=1M count=1
dd if=data of="$disk" bs=1M oflag=direct
sg_xcopy if="$disk" of="$disk" bs=512 skip=0 seek=4096 count=2048
dd if="$disk" bs=1M skip=2 count=1 iflag=direct | cmp - data

# giving blocks back
sg_unmap --lba=4096 --num=2048 --force "$disk"
sg_get_lba_status --lba=4096 "$disk"
dd if="$disk" bs=1M skip=2 count=1 iflag=direct | cmp -n 1048576 - /dev/zero
blkdiscard --offset 0 --length 1048576 "$disk"
dd if="$disk" bs=1M count=1 iflag=direct | cmp -n 1048576 - /dev/zero
sg_write_same --lba=0 --num=2048 --in=noise --xferlen=512 "$disk"
dd if="$disk" bs=512 skip=2047 count=1 iflag=direct | cmp - noise
sg_sync "$disk"
sg_verify --lba=0 --count=2048 "$disk"
sg_turs "$disk"
iscsi-logout
