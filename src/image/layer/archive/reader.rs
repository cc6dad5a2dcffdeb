//! Walks an archive that arrives in chunks.

use super::super::{LayerError, Limits};
use super::field::{Dialect, Header, text};
use super::pax::{self, Pax};
use super::sparse::{self, Map};
use super::{BLOCK, Entry, EntryKind, Time};

/// Reads an archive entry by entry. `F` takes a spent chunk and gives the next one; every chunk but the last holds
/// whole blocks.
pub struct Reader<'a, F> {
    exchange: F,
    limits: &'a Limits,
    chunk: Vec<u8>,
    at: usize,
    /// Bytes of the current body that were not handed out yet, and the padding behind it.
    body: u64,
    padding: u64,
    entries: u64,
}

/// What comes before an entry and says something of it.
#[derive(Default)]
struct Pending {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Option<Pax>,
    bytes: u64,
}

impl<'a, F: FnMut(Vec<u8>) -> Option<Vec<u8>>> Reader<'a, F> {
    pub(in super::super) fn new(exchange: F, limits: &'a Limits) -> Self {
        Self {
            exchange,
            limits,
            chunk: Vec::new(),
            at: 0,
            body: 0,
            padding: 0,
            entries: 0,
        }
    }

    /// Moves to the next entry, over what was not read of the last one. `false` at the end of the archive.
    pub(in super::super) fn next(&mut self, entry: &mut Entry) -> Result<bool, LayerError> {
        self.skip_body()?;
        let mut pending = Pending::default();
        while let Some(block) = self.header()? {
            self.count()?;
            let header = Header(&block).verify()?;
            match header.type_flag() {
                b'L' => pending.name = Some(self.long_name(header, &mut pending.bytes)?),
                b'K' => pending.link = Some(self.long_name(header, &mut pending.bytes)?),
                b'x' => {
                    let data = self.metadata(header, &mut pending.bytes)?;
                    pending.pax = Some(Pax::parse(&data, self.limits)?);
                }
                b'g' => {
                    let data = self.metadata(header, &mut 0)?;
                    pax::records(&data).try_for_each(|record| record.map(drop))?;
                }
                // The name of the volume: says nothing about any file.
                b'V' => self.set_body(header.size()?)?,
                _ => {
                    self.assemble(header, pending, entry)?;
                    return Ok(true);
                }
            }
            self.skip_body()?;
        }
        if pending.name.is_some() || pending.link.is_some() || pending.pax.is_some() {
            return Err(LayerError::archive(
                "archive ends after a header that belongs to another entry",
            ));
        }
        Ok(false)
    }

    /// The next piece of the current entry's data, empty at its end. All of it at once if the chunk has it.
    pub(in super::super) fn data(&mut self) -> Result<&[u8], LayerError> {
        if self.body == 0 {
            return Ok(&[]);
        }
        self.refill()?;
        let available = self.chunk.len() - self.at;
        let n = usize::try_from(self.body).map_or(available, |body| body.min(available));
        self.body -= n as u64;
        self.at += n;
        Ok(&self.chunk[self.at - n..self.at])
    }

    /// Runs to the end of the input, for the sake of the digest, whatever stands behind the archive.
    pub(in super::super) fn finish(mut self) {
        while let Some(next) = (self.exchange)(std::mem::take(&mut self.chunk)) {
            self.chunk = next;
        }
    }

    fn count(&mut self) -> Result<(), LayerError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(LayerError::limit("archive entries", self.limits.entries));
        }
        Ok(())
    }

    /// The next header block; `None` where the archive ends: at two zero blocks, or where the input ends cleanly.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, LayerError> {
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if block != [0; BLOCK] {
            return Ok(Some(block));
        }
        match self.block()? {
            None => Ok(None),
            Some(block) if block == [0; BLOCK] => Ok(None),
            Some(_) => Err(LayerError::archive("single block of zeros between entries")),
        }
    }

    fn assemble(
        &mut self,
        header: Header<'_>,
        mut pending: Pending,
        entry: &mut Entry,
    ) -> Result<(), LayerError> {
        entry.clear();
        header.path(&mut entry.path);
        entry.link.extend_from_slice(header.link());
        entry.mode = header.mode()?;
        entry.mtime = Time {
            seconds: header.mtime()?,
            nanos: 0,
        };
        let mut pax = pending.pax.take().unwrap_or_default();
        // A field that PAX replaces may hold anything.
        entry.uid = if pax.uid.is_some() {
            0
        } else {
            pax::id(header.uid()?)?
        };
        entry.gid = if pax.gid.is_some() {
            0
        } else {
            pax::id(header.gid()?)?
        };
        pax.apply(entry)?;
        if let Some(path) = pending.name.or(pax.sparse.name.take()).or(pax.path.take()) {
            entry.path = path;
        }
        if let Some(link) = pending.link.or(pax.link.take()) {
            entry.link = link;
        }
        entry.kind = kind(header, &entry.path)?;
        match entry.kind {
            EntryKind::File => self.file(header, pax, entry)?,
            EntryKind::Char | EntryKind::Block => entry.device = header.device()?,
            _ => {}
        }
        self.check(entry)
    }

    fn file(&mut self, header: Header<'_>, mut pax: Pax, entry: &mut Entry) -> Result<(), LayerError> {
        let stored = match pax.size {
            Some(size) => size,
            None => header.size()?,
        };
        self.set_body(stored)?;
        let (regions, real_size) = if header.type_flag() == b'S' {
            let limits = self.limits;
            sparse::old_map(header.0, || self.expect_block(), limits)?
        } else {
            let real_size = pax.sparse.real_size;
            match pax.sparse.map()? {
                Map::None => {
                    entry.size = stored;
                    return Ok(());
                }
                Map::Here(regions) => (regions, real_size.unwrap_or(stored)),
                Map::InBody => {
                    let real_size =
                        real_size.ok_or_else(|| LayerError::archive("sparse file has no size"))?;
                    (self.map_in_body()?, real_size)
                }
            }
        };
        sparse::check(&regions, real_size, self.body)?;
        entry.size = real_size;
        entry.regions = Some(regions);
        Ok(())
    }

    fn map_in_body(&mut self) -> Result<Vec<sparse::Region>, LayerError> {
        let limits = self.limits;
        let (regions, taken) = sparse::map_in_body(|| self.expect_block(), limits)?;
        self.body = self
            .body
            .checked_sub(taken)
            .ok_or_else(|| LayerError::archive("sparse map is longer than its file"))?;
        Ok(regions)
    }

    fn check(&self, entry: &Entry) -> Result<(), LayerError> {
        if entry.size > self.limits.bytes {
            return Err(LayerError::limit("bytes in one file", self.limits.bytes));
        }
        if entry.path.len().max(entry.link.len()) > self.limits.path {
            return Err(LayerError::limit("bytes in a path", self.limits.path));
        }
        Ok(())
    }

    fn set_body(&mut self, size: u64) -> Result<(), LayerError> {
        self.body = size;
        let padded = size.checked_next_multiple_of(BLOCK as u64);
        self.padding = padded.ok_or_else(|| LayerError::archive("size is out of range"))? - size;
        Ok(())
    }

    /// The body of an entry that only describes another one.
    fn metadata(&mut self, header: Header<'_>, sum: &mut u64) -> Result<Vec<u8>, LayerError> {
        let size = header.size()?;
        *sum = sum.saturating_add(size);
        if *sum > self.limits.metadata as u64 {
            return Err(LayerError::limit(
                "bytes of metadata for one entry",
                self.limits.metadata,
            ));
        }
        self.set_body(size)?;
        let mut data = Vec::new();
        loop {
            let piece = self.data()?;
            if piece.is_empty() {
                return Ok(data);
            }
            data.extend_from_slice(piece);
        }
    }

    fn long_name(&mut self, header: Header<'_>, sum: &mut u64) -> Result<Vec<u8>, LayerError> {
        let mut name = self.metadata(header, sum)?;
        name.truncate(text(&name).len());
        Ok(name)
    }

    fn skip_body(&mut self) -> Result<(), LayerError> {
        while !self.data()?.is_empty() {}
        // Padding and body end in the same block, hence in the same chunk, unless the input is cut off.
        let padding = usize::try_from(std::mem::take(&mut self.padding)).unwrap_or(BLOCK);
        if padding > self.chunk.len() - self.at {
            return Err(truncated());
        }
        self.at += padding;
        Ok(())
    }

    fn expect_block(&mut self) -> Result<[u8; BLOCK], LayerError> {
        self.block()?.ok_or_else(truncated)
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, LayerError> {
        if self.at == self.chunk.len() && !self.advance() {
            return Ok(None);
        }
        let block = *self.chunk[self.at..]
            .first_chunk::<BLOCK>()
            .ok_or_else(truncated)?;
        self.at += BLOCK;
        Ok(Some(block))
    }

    fn refill(&mut self) -> Result<(), LayerError> {
        if self.at == self.chunk.len() && !self.advance() {
            return Err(truncated());
        }
        Ok(())
    }

    fn advance(&mut self) -> bool {
        self.at = 0;
        let next = (self.exchange)(std::mem::take(&mut self.chunk));
        self.chunk = next.unwrap_or_default();
        !self.chunk.is_empty()
    }
}

fn kind(header: Header<'_>, path: &[u8]) -> Result<EntryKind, LayerError> {
    Ok(match header.type_flag() {
        // Before POSIX, a slash at the end was what made a directory.
        0 if path.ends_with(b"/") => EntryKind::Directory,
        0 | b'0' | b'7' => EntryKind::File,
        b'S' if header.dialect() == Dialect::Gnu => EntryKind::File,
        b'1' => EntryKind::HardLink,
        b'2' => EntryKind::Symlink,
        b'3' => EntryKind::Char,
        b'4' => EntryKind::Block,
        b'5' => EntryKind::Directory,
        b'6' => EntryKind::Fifo,
        other => {
            return Err(LayerError::archive(format!(
                "entry type {:?} is not known",
                char::from(other)
            )));
        }
    })
}

fn truncated() -> LayerError {
    LayerError::archive("archive ends in the middle of an entry")
}
