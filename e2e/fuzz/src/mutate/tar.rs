//! Makes the checksums of a changed archive right again: without them a reader looks no further.

const BLOCK: usize = 512;

/// Mends every header it comes by, walking the archive as its size fields say.
pub(super) fn mend(data: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = data.get_mut(at..at + BLOCK) {
        if header.iter().all(|b| *b == 0) {
            at += BLOCK;
            continue;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let body = std::str::from_utf8(&header[124..135])
            .ok()
            .and_then(|text| usize::from_str_radix(text.trim_matches([' ', '\0']), 8).ok())
            .unwrap_or(0);
        at = at
            .saturating_add(BLOCK)
            .saturating_add(body.div_ceil(BLOCK).saturating_mul(BLOCK));
    }
}
