//! Identifiers of pods and containers: 256 random bits in lower-case hex, as kubelet and crictl know them.

use std::borrow::Borrow;
use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Box<str>);

        impl $name {
            /// A fresh random identifier.
            pub fn random() -> Self {
                Self(random_hex())
            }

            /// Takes over an identifier that was made earlier, if it is one: 64 lower-case hex digits.
            pub fn parse(text: &str) -> Option<Self> {
                is_id(text).then(|| Self(text.into()))
            }

            /// The 64 hex digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 13 digits, as tables and logs show them.
            pub fn short(&self) -> &str {
                &self.0[..13]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.short())
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

id!(
    /// Identifies a pod sandbox.
    PodId
);
id!(
    /// Identifies a container.
    ContainerId
);

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn random_hex() -> Box<str> {
    let mut bytes = [0u8; 32];
    crate::sys::random(&mut bytes);
    hex(&bytes).into()
}

/// Lower-case hex of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        out.push(char::from(DIGITS[usize::from(b >> 4)]));
        out.push(char::from(DIGITS[usize::from(b & 15)]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_are_valid_and_differ() {
        let (a, b) = (PodId::random(), PodId::random());
        assert_ne!(a, b);
        assert_eq!(PodId::parse(a.as_str()), Some(a));
    }

    #[test]
    fn foreign_text_is_no_id() {
        for text in ["", "abc", "../../etc", &"G".repeat(64), &"A".repeat(64)] {
            assert_eq!(ContainerId::parse(text), None, "{text}");
        }
    }
}
