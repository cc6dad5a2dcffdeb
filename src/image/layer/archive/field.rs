//! The fixed fields of a 512-byte header.

use super::super::LayerError;
use super::BLOCK;

/// A header block whose checksum holds.
#[derive(Clone, Copy)]
pub(super) struct Header<'a>(pub(super) &'a [u8; BLOCK]);

/// Which dialect the header's magic claims.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    V7,
    Ustar,
    Star,
    Gnu,
}

impl<'a> Header<'a> {
    /// The checksum counts its own eight bytes as blanks. Some old writers summed signed bytes.
    pub(super) fn verify(self) -> Result<Self, LayerError> {
        let stored = octal(&self.0[148..156])?;
        let (mut unsigned, mut signed) = (0u64, 0i64);
        for (i, &byte) in self.0.iter().enumerate() {
            let byte = if (148..156).contains(&i) { b' ' } else { byte };
            unsigned += u64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if stored == unsigned || i64::try_from(stored) == Ok(signed) {
            Ok(self)
        } else {
            Err(LayerError::archive("header checksum does not match"))
        }
    }

    pub(super) fn dialect(self) -> Dialect {
        match (&self.0[257..263], &self.0[263..265]) {
            (b"ustar\0", _) if &self.0[508..512] == b"tar\0" => Dialect::Star,
            (b"ustar\0", _) => Dialect::Ustar,
            (b"ustar ", b" \0") => Dialect::Gnu,
            _ => Dialect::V7,
        }
    }

    pub(super) fn type_flag(self) -> u8 {
        self.0[156]
    }

    /// Appends the path: prefix, slash and name where there is a prefix.
    pub(super) fn path(self, out: &mut Vec<u8>) {
        let prefix = match self.dialect() {
            Dialect::Ustar => text(&self.0[345..500]),
            Dialect::Star => text(&self.0[345..476]),
            Dialect::V7 | Dialect::Gnu => &[],
        };
        if !prefix.is_empty() {
            out.extend_from_slice(prefix);
            out.push(b'/');
        }
        out.extend_from_slice(text(&self.0[..100]));
    }

    pub(super) fn link(self) -> &'a [u8] {
        text(&self.0[157..257])
    }

    pub(super) fn mode(self) -> Result<u32, LayerError> {
        Ok((number(&self.0[100..108])? & 0o7777) as u32)
    }

    pub(super) fn uid(self) -> Result<i64, LayerError> {
        number(&self.0[108..116])
    }

    pub(super) fn gid(self) -> Result<i64, LayerError> {
        number(&self.0[116..124])
    }

    pub(super) fn size(self) -> Result<u64, LayerError> {
        u64::try_from(number(&self.0[124..136])?).map_err(|_| LayerError::archive("size is negative"))
    }

    pub(super) fn mtime(self) -> Result<i64, LayerError> {
        number(&self.0[136..148])
    }

    /// Major and minor number; only devices have them.
    pub(super) fn device(self) -> Result<(u32, u32), LayerError> {
        let part = |range: std::ops::Range<usize>| {
            u32::try_from(number(&self.0[range])?)
                .map_err(|_| LayerError::archive("device number is out of range"))
        };
        Ok((part(329..337)?, part(337..345)?))
    }
}

/// A text field: up to the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

/// A number in octal digits, or in GNU's base 256: big-endian two's complement with the top bit set as a mark.
pub(super) fn number(field: &[u8]) -> Result<i64, LayerError> {
    let Some((&first, rest)) = field.split_first() else {
        return Ok(0);
    };
    if first & 0x80 == 0 {
        return i64::try_from(octal(field)?)
            .map_err(|_| LayerError::archive("number in a header is too large"));
    }
    let negative = first & 0x40 != 0;
    let flip = if negative { 0xff } else { 0 };
    let mut value = i64::from((first ^ flip) & 0x7f);
    for &byte in rest {
        if value >> 55 != 0 {
            return Err(LayerError::archive("number in a header is too large"));
        }
        value = value << 8 | i64::from(byte ^ flip);
    }
    Ok(if negative { !value } else { value })
}

/// Octal digits between blanks and NULs; nothing at all is 0.
fn octal(field: &[u8]) -> Result<u64, LayerError> {
    let start = field
        .iter()
        .position(|b| !matches!(b, b' ' | 0))
        .unwrap_or(field.len());
    let digits = text(&field[start..]).trim_ascii_end();
    let mut value = 0u64;
    for &digit in digits {
        if !(b'0'..=b'7').contains(&digit) || value >> 60 != 0 {
            return Err(LayerError::archive("number in a header is not octal"));
        }
        value = value << 3 | u64::from(digit - b'0');
    }
    Ok(value)
}
