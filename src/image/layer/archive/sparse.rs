//! Sparse files, in the four ways that GNU tar has stored them: old headers of type `S`, and PAX 0.0, 0.1 and 1.0.

use super::super::{LayerError, Limits};
use super::BLOCK;
use super::field;
use super::pax::digits;

/// A part of a sparse file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Where in the file.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// The `GNU.sparse.*` records of a PAX header.
#[derive(Default)]
pub(super) struct PaxSparse {
    major: Option<u64>,
    minor: Option<u64>,
    /// Offsets and lengths in turn, as both 0.0 and 0.1 come down to.
    numbers: Option<Vec<u64>>,
    pub(super) real_size: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
}

/// Where the map of a PAX sparse file is.
pub(super) enum Map {
    None,
    Here(Vec<Region>),
    /// At the start of the entry's body.
    InBody,
}

impl PaxSparse {
    pub(super) fn take(&mut self, key: &[u8], value: &[u8], limits: &Limits) -> Result<(), LayerError> {
        match key {
            b"major" => self.major = Some(size(value)?),
            b"minor" => self.minor = Some(size(value)?),
            b"size" | b"realsize" => self.real_size = Some(size(value)?),
            b"name" if value.contains(&0) => {
                return Err(LayerError::archive("path in a PAX header has a NUL"));
            }
            b"name" => self.name = Some(value.to_vec()),
            b"offset" => self.push(size(value)?, false, limits)?,
            b"numbytes" => self.push(size(value)?, true, limits)?,
            b"map" => self.numbers = Some(list(value, limits)?),
            // The number of blocks follows from the list itself.
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, number: u64, is_length: bool, limits: &Limits) -> Result<(), LayerError> {
        let numbers = self.numbers.get_or_insert_default();
        if (numbers.len() % 2 == 1) != is_length {
            return Err(LayerError::archive(
                "offsets and lengths of a sparse map do not alternate",
            ));
        }
        check_count(numbers.len() / 2, limits)?;
        numbers.push(number);
        Ok(())
    }

    /// Where the map is and which way it is written.
    pub(super) fn map(&mut self) -> Result<Map, LayerError> {
        match (self.major, self.minor) {
            (Some(1), Some(0)) => Ok(Map::InBody),
            (None | Some(0), None | Some(0 | 1)) => match self.numbers.take() {
                None => Ok(Map::None),
                Some(numbers) => regions(&numbers).map(Map::Here),
            },
            (major, minor) => Err(LayerError::archive(format!(
                "sparse format {}.{} is not known",
                major.unwrap_or_default(),
                minor.unwrap_or_default()
            ))),
        }
    }
}

/// Reads a 1.0 map, decimal lines padded to a block, from a body that `next` gives block by block.
pub(super) fn map_in_body(
    mut next: impl FnMut() -> Result<[u8; BLOCK], LayerError>,
    limits: &Limits,
) -> Result<(Vec<Region>, u64), LayerError> {
    let mut text = Vec::new();
    let mut numbers = Vec::new();
    let mut wanted = None;
    let mut taken = 0u64;
    while wanted.is_none_or(|wanted| numbers.len() < wanted) {
        text.extend_from_slice(&next()?);
        taken += BLOCK as u64;
        let mut start = 0;
        while let Some(end) = text[start..].iter().position(|&b| b == b'\n') {
            let number = size(&text[start..start + end])?;
            start += end + 1;
            match wanted {
                None => {
                    let count = usize::try_from(number).unwrap_or(usize::MAX);
                    check_count(count, limits)?;
                    wanted = Some(count * 2);
                }
                Some(_) => numbers.push(number),
            }
            if wanted.is_some_and(|wanted| numbers.len() == wanted) {
                break;
            }
        }
        text.drain(..start);
        if text.len() >= BLOCK {
            return Err(LayerError::archive("sparse map is not a list of numbers"));
        }
    }
    Ok((regions(&numbers)?, taken))
}

/// The map of an old GNU header: four regions in the header, 21 in each extension block, which `next` gives.
pub(super) fn old_map(
    header: &[u8; BLOCK],
    mut next: impl FnMut() -> Result<[u8; BLOCK], LayerError>,
    limits: &Limits,
) -> Result<(Vec<Region>, u64), LayerError> {
    let real_size = u64::try_from(field::number(&header[483..495])?)
        .map_err(|_| LayerError::archive("size of a sparse file is negative"))?;
    let mut regions = Vec::new();
    let mut extended = header[482] != 0;
    old_regions(&header[386..482], &mut regions)?;
    while extended {
        check_count(regions.len(), limits)?;
        let block = next()?;
        old_regions(&block[..504], &mut regions)?;
        extended = block[504] != 0;
    }
    Ok((regions, real_size))
}

fn old_regions(descriptors: &[u8], regions: &mut Vec<Region>) -> Result<(), LayerError> {
    let part = |field| {
        u64::try_from(field::number(field)?)
            .map_err(|_| LayerError::archive("sparse map has a negative number"))
    };
    for descriptor in descriptors.chunks_exact(24) {
        if descriptor[0] == 0 {
            break;
        }
        regions.push(Region {
            offset: part(&descriptor[..12])?,
            length: part(&descriptor[12..])?,
        });
    }
    Ok(())
}

/// Regions must be in order, apart, inside the file, and have exactly as much data as is stored.
pub(super) fn check(regions: &[Region], real_size: u64, stored: u64) -> Result<(), LayerError> {
    let (mut end, mut sum) = (0u64, 0u64);
    for region in regions {
        if region.offset < end {
            return Err(LayerError::archive(
                "regions of a sparse file overlap or are out of order",
            ));
        }
        end = region
            .offset
            .checked_add(region.length)
            .filter(|&end| end <= real_size)
            .ok_or_else(|| LayerError::archive("region of a sparse file lies outside of it"))?;
        sum += region.length;
    }
    if sum != stored {
        return Err(LayerError::archive(format!(
            "sparse file has {stored} bytes of data, its map says {sum}"
        )));
    }
    Ok(())
}

/// A size or offset in decimal.
pub(super) fn size(text: &[u8]) -> Result<u64, LayerError> {
    digits(text).ok_or_else(|| LayerError::archive("number in a PAX header is not decimal"))
}

fn list(text: &[u8], limits: &Limits) -> Result<Vec<u64>, LayerError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut numbers = Vec::new();
    for number in text.split(|&b| b == b',') {
        check_count(numbers.len() / 2, limits)?;
        numbers.push(size(number)?);
    }
    Ok(numbers)
}

fn regions(numbers: &[u64]) -> Result<Vec<Region>, LayerError> {
    if !numbers.len().is_multiple_of(2) {
        return Err(LayerError::archive("sparse map has an offset without a length"));
    }
    Ok(numbers
        .chunks_exact(2)
        .map(|pair| Region {
            offset: pair[0],
            length: pair[1],
        })
        .collect())
}

fn check_count(count: usize, limits: &Limits) -> Result<(), LayerError> {
    if count > limits.sparse_regions {
        return Err(LayerError::limit(
            "regions in a sparse file",
            limits.sparse_regions,
        ));
    }
    Ok(())
}
