# Two paths with access states: the kernel asks for them, goes by the optimized one, and by the other
# when initiators have exchanged the states.
modprobe -a scsi_dh_alua dm-multipath dm-round-robin
mkdir -p /etc/multipath/conf.d
cat >/etc/multipath/conf.d/alua.conf <<'CONF'
defaults {
  polling_interval 1
}
devices {
  device {
    vendor ".*"
    product ".*"
    hardware_handler "1 alua"
    prio alua
    path_grouping_policy group_by_prio
    failback immediate
    path_selector "round-robin 0"
  }
}
CONF
state() { cat "/sys/block/${1#/dev/}/device/access_state"; }
sectors_read() { awk '{ print $3 }' "/sys/block/${1#/dev/}/stat"; }
disk_of() {
  for session in /sys/class/iscsi_session/session*; do
    [ "$(cat "$session/targetname")" = "$1" ] || continue
    ls "$session"/device/target*/*:0:0:1/block
  done
}
iscsi-login "$TARGET" "$PORTAL"
iscsi-login "$TARGET2" "$PORTAL2"
by-lun 1 2
good=/dev/$(disk_of "$TARGET") other=/dev/$(disk_of "$TARGET2")
multipathd
until map=$(ls /dev/mapper | grep -v control) && multipath -ll | grep -c 'active ready' | grep -qx 2; do
  sleep 0.1
done
multipath -ll
dmsetup table "$map" | grep '1 alua'
[ "$(state "$good")" = active/optimized ]
[ "$(state "$other")" = active/non-optimized ]
[ "$(cat "/sys/block/${good#/dev/}/device/dh_state")" = alua ]
read_by() { # PATH IDLE: what is read comes by the one path alone
  before=$(sectors_read "$1") idle=$(sectors_read "$2")
  dd if="/dev/mapper/$map" of=/dev/null bs=64k count=64 iflag=direct 2>/dev/null
  [ $(($(sectors_read "$1") - before)) -ge 8192 ] && [ $(($(sectors_read "$2") - idle)) -lt 1024 ]
}
read_by "$good" "$other"
sg_rtpg --decode "$good"
sg_stpg --tp "1,2" --state "an,ao" "$good" ||
  sg_stpg --tp "1,2" --state "an,ao" "$good" # once more after a unit attention
for _ in $(seq 100); do
  [ "$(state "$other")" = active/optimized ] && [ "$(state "$good")" = active/non-optimized ] && break
  sleep 0.1
done
multipath -ll
[ "$(state "$other")" = active/optimized ]
[ "$(state "$good")" = active/non-optimized ]
for _ in $(seq 100); do
  read_by "$other" "$good" && break
  sleep 0.1
done
read_by "$other" "$good"
multipath -F || multipath -F
