//! Texts: account files, hosts.toml, challenges.

use super::{Seed, bytes};

/// User asked for, passwd and group.
pub fn accounts() -> Vec<Seed> {
    [
        (
            "by-name",
            "app:staff%root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:,,,:/home/app:/bin/sh\n%root:x:0:\nstaff:x:50:app,other\nwheel:x:10:app\n",
        ),
        ("by-number", "1000:50%app:x:1000:1000::/home/app:\n%staff:x:50:app\n"),
        ("absent", "4000%%"),
        ("odd", ":staff%+nis\n#comment\n:x:1:1\nx\nx:x:-1:0\n%staff:x:50\nstaff:x:51:,,app,"),
    ]
    .map(|(name, text)| (name, bytes(text)))
    .into()
}

/// `hosts.toml`.
pub fn hosts() -> Vec<Seed> {
    [
        (
            "full",
            "server = \"https://registry.example\"\nskip_verify = true\n\n[host.\"https://mirror.example\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = \"m.crt\"\n  client = [\"one.pem\", [\"two.cert\", \"two.key\"]]\n  dial_timeout = \"1m1.5s\"\n[host.\"https://mirror.example\".header]\n  x-one = \"1\"\n  x-many = [\"2\", \"3\"]\n",
        ),
        ("path", "[host.\"http://10.0.0.1:5000/v2/proxy\"]\noverride_path = true\nca = [\"/a.crt\", \"b.crt\"]\n"),
        ("bare", "server = \"registry.example:5000\"\n[host.'[::1]:5000']\n"),
        ("deep", "a = [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["),
        ("long-time", "[host.\"x\"]\ndial_timeout = \"99999999999999999999h1ns\"\n"),
    ]
    .map(|(name, text)| (name, bytes(text)))
    .into()
}

/// Values of `WWW-Authenticate`, one a line.
pub fn challenges() -> Vec<Seed> {
    [
        (
            "bearer",
            "Bearer realm=\"https://auth.example/token\",service=\"registry.example\",scope=\"repository:a/b:pull,push\",error=\"invalid_token\"",
        ),
        ("both", "Basic realm=\"x\", bearer Realm=\"https://q\\\"t\"\nBearer realm=https://y"),
        ("others", "Negotiate\nDigest realm=\"x\", qop=\"auth, auth-int\", nonce=abc==\nBASIC realm=x"),
        ("broken", "Bearer realm=\"\nBearer =,=\nBearer realm\n,,\n\u{e9}"),
    ]
    .map(|(name, text)| (name, bytes(text)))
    .into()
}
