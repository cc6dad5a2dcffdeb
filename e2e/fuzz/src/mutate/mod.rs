//! Changes to inputs: a fixed seed gives the same changes for ever.

mod bytes;
mod json;
mod protobuf;
mod rng;
mod tar;

pub use rng::Rng;

use crate::{Shape, Target};

/// Inputs are not made longer than this, in bytes.
pub const MAX_INPUT: usize = 64 << 10;

/// A changed copy of `input`; `other` is another one, to take parts from.
pub fn mutate(target: &Target, input: &[u8], other: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut data = input.to_vec();
    for _ in 0..=rng.below(4) {
        let structured = rng.below(4) != 0;
        match target.shape {
            Shape::Json if structured => json::change(&mut data, target.words, rng),
            Shape::Protobuf if structured => protobuf::change(&mut data, target.words, rng),
            Shape::SelectedProtobuf if structured => {
                let mut message = data.split_off(1.min(data.len()));
                protobuf::change(&mut message, target.words, rng);
                data.append(&mut message);
            }
            _ => bytes::change(&mut data, other, target.words, rng),
        }
    }
    if target.shape == Shape::Tar && rng.below(8) != 0 {
        tar::mend(&mut data);
    }
    data.truncate(MAX_INPUT);
    data
}
