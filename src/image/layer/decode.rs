//! The first stage: reads the source, hashes what it reads and inflates it.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;

use super::hash::{self, Hasher};
use super::{Expected, LayerError, Limits};
use crate::types::Digest;

/// Bytes asked of the source at once.
const READ: usize = 128 << 10;

/// What is known of the blob once all of it was read.
pub(super) struct Decoded {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// Turns the source into the bytes of the archive.
pub(super) struct Decoder<'a, R> {
    format: Format<R>,
    expected: &'a Expected<'a>,
    limits: &'a Limits,
    produced: u64,
}

enum Format<R> {
    Plain(Box<Blob<R>>),
    Gzip(Box<MultiGzDecoder<Blob<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Blob<R>>>),
}

impl<'a, R: Read> Decoder<'a, R> {
    pub(super) fn new(source: R, expected: &'a Expected<'a>, limits: &'a Limits) -> Result<Self, LayerError> {
        let mut blob = Blob::new(source, expected, limits);
        let format = match blob.magic()? {
            [0x1f, 0x8b, ..] => Format::Gzip(Box::new(MultiGzDecoder::new(blob))),
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Format::Zstd(Box::new(
                zstd::stream::read::Decoder::with_buffer(blob)
                    .map_err(|e| LayerError::io("start the zstd decoder", e))?,
            )),
            _ => Format::Plain(Box::new(blob)),
        };
        Ok(Self {
            format,
            expected,
            limits,
            produced: 0,
        })
    }

    /// Fills `out` and returns how much of it; less than all only at the end.
    pub(super) fn fill(&mut self, out: &mut [u8]) -> Result<usize, LayerError> {
        let mut filled = 0;
        while filled < out.len() {
            match self.format.read(&mut out[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) => return Err(self.explain(&error)),
            }
        }
        self.produced += filled as u64;
        self.check_bounds()?;
        Ok(filled)
    }

    /// To be called once `fill` came to the end.
    pub(super) fn finish(self) -> Result<Decoded, LayerError> {
        let blob = self.format.into_blob();
        blob.finish()
    }

    fn check_bounds(&mut self) -> Result<(), LayerError> {
        if self.produced > self.limits.bytes {
            return Err(LayerError::limit("bytes of archive", self.limits.bytes));
        }
        let read = self.format.blob().size;
        let allowed = read
            .saturating_mul(self.limits.inflate_ratio)
            .saturating_add(self.limits.inflate_allowance);
        if self.produced > allowed {
            return Err(LayerError::limit(
                "inflated bytes for each compressed byte",
                self.limits.inflate_ratio,
            ));
        }
        Ok(())
    }

    /// A decoder stumbles over a blob that was damaged or cut short on its way just as over one that was bad from the
    /// start. The digest tells one from the other, so that a caller knows whether another try makes sense.
    fn explain(&mut self, error: &io::Error) -> LayerError {
        let format = match self.format {
            Format::Plain(_) => "tar",
            Format::Gzip(_) => "gzip",
            Format::Zstd(_) => "zstd",
        };
        match self.format.blob().check_rest(self.expected) {
            Err(cause) => cause,
            Ok(()) => LayerError::archive(format!("{format} data is damaged: {error}")),
        }
    }
}

impl<R: Read> Format<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(blob) => blob.read(out),
            Self::Gzip(decoder) => decoder.read(out),
            Self::Zstd(decoder) => decoder.read(out),
        }
    }

    fn blob(&mut self) -> &mut Blob<R> {
        match self {
            Self::Plain(blob) => blob,
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Zstd(decoder) => decoder.get_mut(),
        }
    }

    fn into_blob(self) -> Blob<R> {
        match self {
            Self::Plain(blob) => *blob,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        }
    }
}

/// The source, buffered, counted and hashed. What it fails with is kept here, as decoders blur errors.
struct Blob<R> {
    source: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    hasher: Hasher,
    size: u64,
    promised: Option<u64>,
    /// Compressed bytes that come to nothing, such as empty frames, have to end at some time too.
    limit: u64,
    failure: Option<LayerError>,
}

impl<R: Read> Blob<R> {
    fn new(source: R, expected: &Expected<'_>, limits: &Limits) -> Self {
        Self {
            source,
            buffer: vec![0; READ].into(),
            start: 0,
            end: 0,
            hasher: Hasher::like(expected.blob),
            size: 0,
            promised: expected.blob_size,
            limit: limits.bytes,
            failure: None,
        }
    }

    /// The first four bytes, or fewer of a shorter blob, without taking them.
    fn magic(&mut self) -> Result<[u8; 4], LayerError> {
        while self.end < 4 && self.receive()? > 0 {}
        let mut magic = [0; 4];
        let n = self.end.min(4);
        magic[..n].copy_from_slice(&self.buffer[..n]);
        Ok(magic)
    }

    /// Appends to the buffer what the source has next. 0 at the end of the source.
    fn receive(&mut self) -> Result<usize, LayerError> {
        let n = loop {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(n) => break n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LayerError::source(error)),
            }
        };
        self.hasher.update(&self.buffer[self.end..self.end + n]);
        self.end += n;
        self.size += n as u64;
        self.check_size(n == 0)?;
        Ok(n)
    }

    fn check_size(&self, ended: bool) -> Result<(), LayerError> {
        match self.promised {
            None if self.size > self.limit => Err(LayerError::limit("bytes of blob", self.limit)),
            Some(promised) if self.size > promised || (ended && self.size < promised) => {
                Err(LayerError::Digest {
                    what: "size of the layer's blob",
                    expected: format!("{promised} bytes"),
                    actual: if ended {
                        format!("{} bytes", self.size)
                    } else {
                        "more".to_owned()
                    },
                })
            }
            _ => Ok(()),
        }
    }

    /// Fails if the source did, or if all that it still has does not make the blob that was promised.
    fn check_rest(&mut self, expected: &Expected<'_>) -> Result<(), LayerError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if expected.blob.is_none() {
            return Ok(());
        }
        self.drain()?;
        hash::check("digest of the layer's blob", expected.blob, &self.take_digest()?)
    }

    /// Reads to the end of the source for the sake of the digest.
    fn drain(&mut self) -> Result<(), LayerError> {
        loop {
            (self.start, self.end) = (0, 0);
            if self.receive()? == 0 {
                return Ok(());
            }
        }
    }

    fn take_digest(&mut self) -> Result<Digest, LayerError> {
        std::mem::replace(&mut self.hasher, Hasher::like(None)).finish()
    }

    fn finish(mut self) -> Result<Decoded, LayerError> {
        self.drain()?;
        Ok(Decoded {
            digest: self.take_digest()?,
            size: self.size,
        })
    }
}

impl<R: Read> Read for Blob<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(out.len());
        out[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl<R: Read> BufRead for Blob<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.failure.is_some() {
            return Err(io::Error::other("the source failed"));
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if let Err(failure) = self.receive() {
                self.failure = Some(failure);
                return Err(io::Error::other("the source failed"));
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
    }
}
