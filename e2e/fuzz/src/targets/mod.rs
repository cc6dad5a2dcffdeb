//! The targets, by what they read.

mod accounts;
mod cdi;
mod cni;
mod cri;
mod image;
mod nri;
mod oci;
mod registry;
mod stream;
mod supervisor;

use crate::{Shape, Target, seeds};

const MIB: usize = 1 << 20;

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "cri-pod",
        run: cri::pod,
        shape: Shape::Protobuf,
        words: cri::WORDS,
        memory: MIB,
        memory_factor: 300,
        seeds: seeds::cri::pods,
    },
    Target {
        name: "cri-container",
        run: cri::container,
        shape: Shape::Protobuf,
        words: cri::WORDS,
        memory: MIB,
        memory_factor: 300,
        seeds: seeds::cri::containers,
    },
    Target {
        name: "cri-others",
        run: cri::others,
        shape: Shape::SelectedProtobuf,
        words: cri::WORDS,
        memory: MIB,
        memory_factor: 300,
        seeds: seeds::cri::others,
    },
    Target {
        name: "supervisor",
        run: supervisor::packet,
        shape: Shape::Protobuf,
        words: supervisor::WORDS,
        memory: MIB,
        memory_factor: 300,
        seeds: seeds::supervisor::packets,
    },
    Target {
        name: "image-config",
        run: image::config,
        shape: Shape::Json,
        words: image::WORDS,
        memory: MIB,
        memory_factor: 100,
        seeds: seeds::image::configs,
    },
    Target {
        name: "manifest",
        run: image::manifest,
        shape: Shape::Json,
        words: image::WORDS,
        memory: MIB,
        memory_factor: 100,
        seeds: seeds::image::manifests,
    },
    Target {
        name: "tar",
        run: image::tar,
        shape: Shape::Tar,
        words: image::TAR_WORDS,
        memory: MIB,
        memory_factor: 40,
        seeds: seeds::tar::archives,
    },
    Target {
        name: "reference",
        run: image::reference,
        shape: Shape::Text,
        words: image::REFERENCE_WORDS,
        memory: MIB,
        memory_factor: 40,
        seeds: seeds::image::references,
    },
    Target {
        name: "accounts",
        run: accounts::resolve,
        shape: Shape::Text,
        words: accounts::WORDS,
        memory: MIB,
        memory_factor: 40,
        seeds: seeds::text::accounts,
    },
    Target {
        name: "hosts-toml",
        run: registry::hosts,
        shape: Shape::Text,
        words: registry::HOSTS_WORDS,
        memory: MIB,
        memory_factor: 300,
        seeds: seeds::text::hosts,
    },
    Target {
        name: "www-authenticate",
        run: registry::challenge,
        shape: Shape::Text,
        words: registry::CHALLENGE_WORDS,
        memory: MIB,
        memory_factor: 100,
        seeds: seeds::text::challenges,
    },
    Target {
        name: "cni-result",
        run: cni::result,
        shape: Shape::Json,
        words: cni::WORDS,
        memory: MIB,
        memory_factor: 100,
        seeds: seeds::cni::results,
    },
    Target {
        name: "cni-config",
        run: cni::configuration,
        shape: Shape::Json,
        words: cni::WORDS,
        memory: MIB,
        memory_factor: 100,
        seeds: seeds::cni::configurations,
    },
    Target {
        name: "seccomp",
        run: oci::seccomp,
        shape: Shape::Json,
        words: oci::SECCOMP_WORDS,
        memory: MIB,
        memory_factor: 300,
        seeds: seeds::oci::profiles,
    },
    Target {
        name: "oci-spec",
        run: oci::spec,
        shape: Shape::Json,
        words: oci::WORDS,
        memory: MIB,
        memory_factor: 300,
        seeds: seeds::oci::specs,
    },
    Target {
        name: "nri-connection",
        run: nri::connection,
        shape: Shape::Bytes,
        words: nri::WORDS,
        memory: MIB,
        memory_factor: 300,
        seeds: seeds::nri::connections,
    },
    Target {
        name: "nri-adjustment",
        run: nri::adjustment,
        shape: Shape::Protobuf,
        words: nri::WORDS,
        memory: MIB,
        memory_factor: 300,
        seeds: seeds::nri::adjustments,
    },
    Target {
        name: "cdi",
        run: cdi::file,
        shape: Shape::Text,
        words: cdi::WORDS,
        memory: 4 * MIB,
        memory_factor: 500,
        seeds: seeds::cdi::files,
    },
    Target {
        name: "spdy-frames",
        run: stream::frames,
        shape: Shape::Bytes,
        words: stream::WORDS,
        memory: MIB,
        memory_factor: 300,
        seeds: seeds::stream::frames,
    },
    Target {
        name: "spdy-headers",
        run: stream::headers,
        shape: Shape::Bytes,
        words: stream::WORDS,
        memory: MIB,
        memory_factor: 300,
        seeds: seeds::stream::headers,
    },
    Target {
        name: "spdy-connection",
        run: stream::connection,
        shape: Shape::Bytes,
        words: stream::WORDS,
        memory: 16 * MIB,
        memory_factor: 3000,
        seeds: seeds::stream::connections,
    },
    Target {
        name: "websocket-message",
        run: stream::message,
        shape: Shape::Bytes,
        words: stream::WORDS,
        memory: MIB,
        memory_factor: 50,
        seeds: seeds::stream::messages,
    },
    Target {
        name: "terminal-size",
        run: stream::resize,
        shape: Shape::Text,
        words: stream::WORDS,
        memory: MIB,
        memory_factor: 50,
        seeds: seeds::stream::sizes,
    },
];

/// The target of that name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}
