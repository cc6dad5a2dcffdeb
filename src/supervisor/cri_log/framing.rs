//! Cuts a stream of bytes into log records.
//!
//! A record is a line, or `max` bytes of a longer one (tag `P`). What has neither ended nor grown past `max` is carried
//! over to the next chunk, so at most `max` bytes are kept per stream.

/// One record: `head` was carried over, `tail` is from the chunk at hand. Neither contains the newline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// The line ends here (tag `F`).
    pub full: bool,
    /// First part of the content.
    pub head: &'a [u8],
    /// Rest of the content.
    pub tail: &'a [u8],
}

/// Records handed over at once; bounds the vector that describes them.
const BATCH: usize = 256;

/// The state of one stream.
#[derive(Debug)]
pub struct Framer {
    carry: Vec<u8>,
    max: usize,
}

impl Framer {
    /// For records of at most `max` bytes of content.
    pub fn new(max: usize) -> Self {
        Self {
            carry: Vec::new(),
            max,
        }
    }

    /// Takes a chunk and hands over the records that it completes.
    pub fn push(&mut self, chunk: &[u8], mut emit: impl FnMut(&[Record<'_>])) {
        let mut cutter = Cutter {
            head: &self.carry,
            rest: chunk,
            max: self.max,
        };
        let mut batch = Vec::new();
        for record in &mut cutter {
            batch.push(record);
            if batch.len() == BATCH {
                emit(&batch);
                batch.clear();
            }
        }
        if !batch.is_empty() {
            emit(&batch);
        }
        let (consumed, left) = (cutter.head.is_empty(), cutter.rest.len());
        if consumed {
            self.carry.clear();
        }
        self.carry.extend_from_slice(&chunk[chunk.len() - left..]);
        if self.carry.is_empty() {
            // An idle container keeps no buffer.
            self.carry = Vec::new();
        }
    }

    /// Hands over what was carried as an unfinished record.
    pub fn flush(&mut self, mut emit: impl FnMut(&[Record<'_>])) {
        if !self.carry.is_empty() {
            let carry = std::mem::take(&mut self.carry);
            emit(&[Record {
                full: false,
                head: &carry,
                tail: &[],
            }]);
        }
    }
}

struct Cutter<'a> {
    head: &'a [u8],
    rest: &'a [u8],
    max: usize,
}

impl<'a> Iterator for Cutter<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        // A newline further away than one record is of no interest yet.
        let room = self.max - self.head.len();
        let window = &self.rest[..self.rest.len().min(room + 1)];
        let newline = window.iter().position(|b| *b == b'\n');
        let (take, skip) = match newline {
            Some(at) => (at, 1),
            None if window.len() > room => (room, 0),
            None => return None,
        };
        let record = Record {
            full: newline.is_some(),
            head: self.head,
            tail: &self.rest[..take],
        };
        self.head = &[];
        self.rest = &self.rest[take + skip..];
        Some(record)
    }
}
