//! Where records begin and end (RFC 8446 section 5.1): no more than that.

/// The length of the header of a record.
pub(super) const HEADER: usize = 5;

/// The length of the record that begins here, with its header; `None` if the header is not complete.
pub(super) fn record_length(bytes: &[u8]) -> Option<usize> {
    let &[_, _, _, high, low] = bytes.first_chunk::<HEADER>()?;
    Some(HEADER + usize::from(u16::from_be_bytes([high, low])))
}

/// The length of the complete records at the beginning of `bytes`.
pub(super) fn whole_records(bytes: &[u8]) -> usize {
    let mut whole = 0;
    while let Some(left) = bytes.get(whole..)
        && let Some(length) = record_length(left)
        && length <= left.len()
    {
        whole += length;
    }
    whole
}
