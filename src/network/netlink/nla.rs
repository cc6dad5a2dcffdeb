//! Netlink attributes: a writer for nested ones and a reader that trusts no length.

/// Marks an attribute whose value is attributes.
const NESTED: u16 = 0x8000;
const HEADER: usize = 4;

/// Builds a payload of attributes.
#[derive(Debug, Default)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// Starts with `header`, the fixed part that comes before the attributes.
    pub fn after(header: &[u8]) -> Self {
        Self(header.to_vec())
    }

    /// An attribute with raw bytes.
    #[must_use]
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    /// An attribute with a C string.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// An attribute with a number in network byte order, as netfilter wants them.
    #[must_use]
    pub fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// An attribute made of the attributes `inner`.
    #[must_use]
    pub fn nested(self, kind: u16, inner: Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    /// The bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        // The length field has 16 bits; callers split what could be longer.
        let length = u16::try_from(HEADER + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// The value of the first attribute of type `kind`.
pub fn find(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    while let Some((found, value, after)) = split(bytes) {
        if found & !NESTED == kind {
            return Some(value);
        }
        bytes = after;
    }
    None
}

fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
    let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]);
    let value = bytes.get(HEADER..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, value, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_again() {
        let inner = Attributes::default().be32(7, 9);
        let bytes = Attributes::default().text(1, "abcde").nested(2, inner).finish();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(find(&bytes, 1), Some(&b"abcde\0"[..]));
        let nested = find(&bytes, 2).unwrap_or_default();
        assert_eq!(find(nested, 7), Some(&9u32.to_be_bytes()[..]));
        assert_eq!(find(&bytes, 3), None);
    }

    #[test]
    fn short_and_lying_attributes_are_not_found() {
        assert_eq!(find(&[], 1), None);
        assert_eq!(find(&[8, 0, 1, 0, 1], 1), None);
        assert_eq!(find(&[0, 0, 1, 0], 1), None);
    }
}
