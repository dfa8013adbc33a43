# Two portals under multipath; one path is lost while fio writes and verifies, and comes back.
quick='node.session.timeo.replacement_timeout=2'
noop='node.conn[0].timeo.noop_out_interval=1'
timeout='node.conn[0].timeo.noop_out_timeout=2'
modprobe -a dm-multipath dm-round-robin dm-queue-length
for portal in "$PORTAL" "$PORTAL2"; do
  iscsi-login "$TARGET" "$portal" "$quick" "$noop" "$timeout"
done
set -- $(by-lun 1 2)
multipathd
for _ in $(seq 100); do
  map=$(ls /dev/mapper | grep -v control || true)
  [ -n "$map" ] && [ "$(dmsetup table "$map" | grep -o '8:[0-9]*' | wc -l)" = 2 ] && break
  sleep 0.2
done
multipath -ll
fio --name=verify --filename="/dev/mapper/$map" --rw=randwrite --bs=16k --size=24m --iodepth=8 \
  --ioengine=libaio --direct=1 --verify=crc32c --do_verify=1 --verify_fatal=1 --rate=1500k \
  --output=fio.log &
fio=$!
sleep 4
path-down "${PORTAL2%:*}"
for _ in $(seq 150); do
  multipath -ll | grep -q failed && break
  sleep 0.2
done
multipath -ll | grep failed
wait $fio || { cat fio.log; exit 1; }
path-up "${PORTAL2%:*}"
for _ in $(seq 200); do
  multipath -ll | grep -q failed || break
  sleep 0.2
done
multipath -ll
! multipath -ll | grep failed
multipath -F || multipath -F
