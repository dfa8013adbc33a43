# What udev and sg_inq make of the unit's identity.
iscsi-login "$TARGET" "$PORTAL"
disk=$(by-lun 1)
echo "standard: $(sg_inq "$disk" | tr '\n' ' ')"
sg_inq -i "$disk"
echo "wwid=$(/lib/udev/scsi_id --whitelisted --device="$disk")"
iscsi-logout
