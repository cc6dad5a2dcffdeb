//! Terminal sizes as clients send them: JSON objects, one after the other, in pieces of any length.

use serde::Deserialize;

/// Most bytes kept of an object that is not complete.
const MAX_PENDING: usize = 4096;

/// A size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// Finds sizes in what a client sends.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
    broken: bool,
}

impl Decoder {
    /// The last size that `data` completes: earlier ones are out of date already. What is no size makes this and all that
    /// follows mean nothing, as it does for the clients' own library.
    pub fn push(&mut self, data: &[u8]) -> Option<Size> {
        if self.broken {
            return None;
        }
        self.pending.extend_from_slice(data);
        let mut sizes = serde_json::Deserializer::from_slice(&self.pending).into_iter::<Size>();
        let mut last = None;
        let mut done = 0;
        for size in &mut sizes {
            match size {
                Ok(size) => last = Some(size),
                Err(e) if e.is_eof() => break,
                Err(_) => {
                    self.broken = true;
                    break;
                }
            }
            done += 1;
        }
        let end = if done == 0 { 0 } else { complete(&self.pending) };
        self.pending.drain(..end);
        if self.pending.len() > MAX_PENDING {
            self.broken = true;
        }
        if self.broken {
            self.pending = Vec::new();
        }
        last
    }
}

/// Where the last complete object ends: sizes hold no braces but their own.
fn complete(data: &[u8]) -> usize {
    data.iter().rposition(|b| *b == b'}').map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: Size = Size {
        width: 200,
        height: 50,
    };

    #[test]
    fn sizes_are_found_wherever_they_are_cut() {
        let text = "{\"Width\":80,\"Height\":24}\n{\"Width\":200,\"Height\":50}\n";
        for cut in 0..text.len() {
            let mut decoder = Decoder::default();
            let found = [&text[..cut], &text[cut..]].map(|part| decoder.push(part.as_bytes()));
            assert_eq!(found.into_iter().flatten().last(), Some(WIDE), "cut at {cut}");
            assert!(decoder.pending.len() <= 1, "cut at {cut}: {decoder:?}");
        }
    }

    #[test]
    fn what_is_no_size_is_nothing() {
        for text in [
            "[]",
            "{\"Width\":-1,\"Height\":2}",
            "{\"Width\":70000,\"Height\":2}",
            "{}",
            "x",
            "}",
        ] {
            let mut decoder = Decoder::default();
            assert_eq!(decoder.push(text.as_bytes()), None, "{text}");
            assert_eq!(decoder.push(b"{\"Width\":1,\"Height\":1}"), None, "{text}");
        }
        let mut decoder = Decoder::default();
        for _ in 0..1000 {
            assert_eq!(decoder.push(&[b' '; 100]), None);
        }
        assert!(decoder.pending.len() <= MAX_PENDING);
    }
}
