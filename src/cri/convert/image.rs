//! Images.

use crate::cri::proto as p;
use crate::image::Auth;
use crate::image::Image;

/// A list item.
pub fn item(image: &Image) -> p::Image {
    let (uid, username) = image.user();
    p::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid: uid.map(|value| p::Int64Value { value }),
        username,
        spec: None,
        pinned: image.pinned,
    }
}

/// Credentials of one pull; never stored, never logged.
pub fn auth(a: p::AuthConfig) -> Auth {
    Auth {
        username: a.username,
        password: a.password,
        auth: a.auth,
        server_address: a.server_address,
        identity_token: a.identity_token,
        registry_token: a.registry_token,
    }
}
