//! Header blocks of SPDY/3: names and values, deflated with a dictionary that both ends know.
//!
//! All blocks of one direction of a connection are one stream of compressed data, so a block that cannot be read ends the
//! connection. What a block may unfold to is bounded before it is unfolded.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use thiserror::Error;

use super::dictionary::DICTIONARY;

/// Most bytes of a block once it is inflated.
pub const MAX_BLOCK: usize = 16 * 1024;
/// Most headers of a block.
pub const MAX_HEADERS: usize = 64;
/// Bytes set aside for a block at first.
const CHUNK: usize = 2048;

/// What is wrong with a header block.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// The compressed data is damaged.
    #[error("a header block cannot be inflated: {0}")]
    Inflate(String),
    /// It unfolds to too much.
    #[error("a header block is longer than {MAX_BLOCK} bytes")]
    TooLong,
    /// Too many headers.
    #[error("a header block of {0} headers is longer than {MAX_HEADERS}")]
    TooMany(u32),
    /// Lengths and content disagree.
    #[error("a header block is cut short or too long")]
    Truncated,
    /// A name that must not be.
    #[error("a header has an empty, repeated or upper-case name")]
    Name,
    /// Not text.
    #[error("a header is not UTF-8")]
    Text,
}

/// Names and values. Names are lower-case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// From pairs, whose names are lower-case.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .collect(),
        )
    }

    /// The value of `name`, which is lower-case here.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// Reads an inflated block.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn parse(block: &[u8]) -> Result<Self, HeaderError> {
        let mut rest = block;
        let count = word(&mut rest)?;
        if count as usize > MAX_HEADERS {
            return Err(HeaderError::TooMany(count));
        }
        let mut headers: Vec<(String, String)> = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let (name, value) = (text(&mut rest)?, text(&mut rest)?);
            let bad = name.is_empty() || name.bytes().any(|b| b.is_ascii_uppercase());
            if bad || headers.iter().any(|(known, _)| *known == name) {
                return Err(HeaderError::Name);
            }
            headers.push((name, value));
        }
        if rest.is_empty() {
            Ok(Self(headers))
        } else {
            Err(HeaderError::Truncated)
        }
    }

    /// The block, not compressed.
    pub fn encode(&self) -> Vec<u8> {
        let mut block = (self.0.len() as u32).to_be_bytes().to_vec();
        for text in self.0.iter().flat_map(|(n, v)| [n, v]) {
            block.extend_from_slice(&(text.len() as u32).to_be_bytes());
            block.extend_from_slice(text.as_bytes());
        }
        block
    }
}

fn word(rest: &mut &[u8]) -> Result<u32, HeaderError> {
    let (bytes, after) = rest.split_first_chunk::<4>().ok_or(HeaderError::Truncated)?;
    *rest = after;
    Ok(u32::from_be_bytes(*bytes))
}

fn text(rest: &mut &[u8]) -> Result<String, HeaderError> {
    let length = word(rest)? as usize;
    let (bytes, after) = rest.split_at_checked(length).ok_or(HeaderError::Truncated)?;
    *rest = after;
    String::from_utf8(bytes.to_vec()).map_err(|_| HeaderError::Text)
}

/// Inflates the blocks that a peer sends, in their order.
pub struct Inflater(Decompress);

impl Default for Inflater {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inflater")
    }
}

impl Inflater {
    /// Inflates and reads one block.
    ///
    /// # Errors
    /// No further block can be read after one that fails.
    pub fn read(&mut self, block: &[u8]) -> Result<Headers, HeaderError> {
        Headers::parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, HeaderError> {
        let mut out = Vec::with_capacity(CHUNK);
        let mut input = block;
        loop {
            if out.len() == out.capacity() {
                if out.len() >= MAX_BLOCK {
                    return Err(HeaderError::TooLong);
                }
                out.reserve_exact(out.len().min(MAX_BLOCK - out.len()));
            }
            let before = (self.0.total_in(), out.len());
            let outcome = self.0.decompress_vec(input, &mut out, FlushDecompress::Sync);
            let taken = usize::try_from(self.0.total_in() - before.0).unwrap_or(input.len());
            input = input.get(taken..).unwrap_or_default();
            match outcome {
                // The peer never ends its stream of blocks.
                Ok(Status::StreamEnd) => return Err(HeaderError::Inflate("the stream has ended".into())),
                Ok(_) if input.is_empty() && out.len() < out.capacity() => return Ok(out),
                Ok(_) if taken > 0 || out.len() > before.1 => {}
                Ok(_) if out.len() == out.capacity() => {}
                Ok(_) => return Err(HeaderError::Truncated),
                Err(e) if e.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(&DICTIONARY)
                        .map_err(|e| HeaderError::Inflate(e.to_string()))?;
                }
                Err(e) => return Err(HeaderError::Inflate(e.to_string())),
            }
        }
    }
}

/// Deflates the blocks that are sent, in their order.
pub struct Deflater(Compress);

impl std::fmt::Debug for Deflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Deflater")
    }
}

/// The smallest window that holds the dictionary: what we send is some dozens of bytes.
const WINDOW_BITS: u8 = 11;

impl Deflater {
    /// A fresh one.
    ///
    /// # Errors
    /// The library refuses the dictionary.
    pub fn new() -> Result<Self, HeaderError> {
        let mut deflate = Compress::new_with_window_bits(Compression::new(1), true, WINDOW_BITS);
        deflate
            .set_dictionary(&DICTIONARY)
            .map_err(|e| HeaderError::Inflate(e.to_string()))?;
        Ok(Self(deflate))
    }

    /// The compressed block.
    ///
    /// # Errors
    /// The library fails.
    pub fn write(&mut self, headers: &Headers) -> Result<Vec<u8>, HeaderError> {
        let block = headers.encode();
        let mut out = Vec::with_capacity(block.len() + 64);
        let start = self.0.total_in();
        loop {
            let done = usize::try_from(self.0.total_in() - start).unwrap_or(block.len());
            let rest = block.get(done..).unwrap_or_default();
            self.0
                .compress_vec(rest, &mut out, FlushCompress::Sync)
                .map_err(|e| HeaderError::Inflate(e.to_string()))?;
            // Room that is left over means that the flush is complete.
            if out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(out.capacity());
        }
    }
}

/// Inflates and reads `block` as the first one of a connection.
///
/// # Errors
/// See [`HeaderError`].
pub fn decode(block: &[u8]) -> Result<Headers, HeaderError> {
    Inflater::default().read(block)
}
