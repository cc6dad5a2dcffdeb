#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::types::Kind;

const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh
# a comment
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin

broken
no-ids:x:::x:/x:/x
word:x:one:1::/:
+nis::::::
app:x:1000:1001:App,,,:/home/app:/bin/sh
twin:x:1000:7::/twin:
app:x:2000:2000::/second:
\xff\xfe:x:5:5::/:
homeless:x:1500:1500
windows:x:1600:1600::/home/windows:/bin/sh\r
1234:x:4321:4321::/digits:
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
";

const GROUP: &[u8] = b"root:x:0:
app:x:1001:app
audio:x:29:daemon,app
video:x:44:app,daemon
broken:x:
again:x:29:app
spaced:x:50:daemon, app
empty::60:
staff:x:61
";

fn get(request: Request<'_>) -> Identity {
    resolve(&request, PASSWD, GROUP).unwrap()
}

fn refuse(request: Request<'_>) -> String {
    let request = Request {
        image: "example.com/app:1",
        ..request
    };
    let error = resolve(&request, PASSWD, GROUP).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    error.message().to_owned()
}

/// uid, gid and groups for the image's `USER`.
fn image(user: &str) -> (u32, u32, Vec<u32>) {
    let id = get(Request {
        image_user: user,
        ..Request::default()
    });
    (id.uid, id.gid, id.additional_gids)
}

#[test]
fn images_user() {
    for (user, expected) in [
        ("", (0, 0, vec![0])),
        ("root", (0, 0, vec![0])),
        ("app", (1000, 1001, vec![1001, 29, 44, 50])),
        ("1000", (1000, 1001, vec![1001, 29, 44, 50])),
        ("app:", (1000, 1001, vec![1001, 29, 44, 50])),
        ("app:staff", (1000, 61, vec![61, 29, 44, 50])),
        ("app:5", (1000, 5, vec![5, 29, 44, 50])),
        ("1000:audio", (1000, 29, vec![29, 44, 50])),
        ("daemon", (1, 1, vec![1, 29, 44, 50])),
        // No entry: group 0, no groups.
        ("777", (777, 0, vec![0])),
        ("777:888", (777, 888, vec![888])),
        (":video", (0, 44, vec![44])),
        // Digits are a number even where an account is called so.
        ("1234", (1234, 0, vec![0])),
        ("homeless", (1500, 1500, vec![1500])),
    ] {
        assert_eq!(image(user), expected, "{user:?}");
    }
}

#[test]
fn home_and_name() {
    for (user, home, name) in [
        ("app", "/home/app", Some("app")),
        ("1000", "/home/app", Some("app")),
        ("homeless", "/", Some("homeless")),
        ("windows", "/home/windows", Some("windows")),
        ("777", "/", None),
        ("", "/root", Some("root")),
    ] {
        let id = get(Request {
            image_user: user,
            ..Request::default()
        });
        assert_eq!(
            (id.home.as_str(), id.username.as_deref()),
            (home, name),
            "{user:?}"
        );
    }
}

#[test]
fn request_wins_over_image() {
    let id = get(Request {
        image_user: "app:staff",
        run_as_user: Some(1),
        ..Request::default()
    });
    assert_eq!((id.uid, id.gid, id.additional_gids), (1, 1, vec![1, 29, 44, 50]));

    let id = get(Request {
        run_as_user: Some(1),
        run_as_username: "app",
        run_as_group: Some(70),
        ..Request::default()
    });
    assert_eq!((id.uid, id.gid), (1000, 70));
}

#[test]
fn group_needs_a_user() {
    let message = refuse(Request {
        image_user: "app",
        run_as_group: Some(5),
        ..Request::default()
    });
    assert!(
        message.contains("run_as_group 5") && message.contains("without a user"),
        "{message}"
    );
}

#[test]
fn policies() {
    let merged = Request {
        run_as_user: Some(1000),
        run_as_group: Some(3000),
        supplemental_groups: &[4000, 29, 4000],
        ..Request::default()
    };
    assert_eq!(get(merged).additional_gids, [3000, 29, 44, 50, 4000]);
    let strict = Request {
        policy: GroupsPolicy::Strict,
        ..merged
    };
    assert_eq!(get(strict).additional_gids, [3000, 4000, 29]);
}

#[test]
fn unknown_names_name_the_image() {
    for (user, part) in [
        (
            "ghost",
            "no users found: user \"ghost\" is not in /etc/passwd of image example.com/app:1",
        ),
        (
            "app:ghost",
            "no groups found: group \"ghost\" is not in /etc/group of image example.com/app:1",
        ),
        ("broken", "user \"broken\""),
        ("no-ids", "user \"no-ids\""),
        ("word", "user \"word\""),
        ("+nis", "user \"+nis\""),
        ("app:broken", "group \"broken\""),
    ] {
        let message = refuse(Request {
            image_user: user,
            ..Request::default()
        });
        assert!(message.contains(part), "{user:?}: {message}");
    }
    let message = refuse(Request {
        run_as_username: "ghost",
        ..Request::default()
    });
    assert!(message.starts_with("no users found"), "{message}");
    let nothing = resolve(
        &Request {
            image_user: "app",
            ..Request::default()
        },
        b"",
        b"",
    );
    assert!(nothing.is_err());
}

#[test]
fn ids_out_of_range() {
    for user in [
        "-1",
        "2147483648",
        "4294967295",
        "99999999999999999999",
        "0:-5",
        "app:4294967296",
    ] {
        let message = refuse(Request {
            image_user: user,
            ..Request::default()
        });
        assert!(message.contains("out of range"), "{user}: {message}");
    }
    for request in [
        Request {
            run_as_user: Some(-1),
            ..Request::default()
        },
        Request {
            run_as_user: Some(1 << 31),
            ..Request::default()
        },
        Request {
            run_as_user: Some(1),
            run_as_group: Some(-1),
            ..Request::default()
        },
        Request {
            supplemental_groups: &[0, 1 << 32],
            ..Request::default()
        },
    ] {
        let message = refuse(request);
        assert!(message.contains("out of range"), "{message}");
    }
    assert_eq!(image("2147483647").0, 2_147_483_647);
}

#[test]
fn too_many_colons() {
    let message = refuse(Request {
        image_user: "a:b:c",
        ..Request::default()
    });
    assert!(message.contains("more than one colon"), "{message}");
}

#[test]
fn bounds() {
    let huge = vec![b'\n'; MAX_FILE + 1];
    let request = Request::default();
    assert!(resolve(&request, &huge, b"").is_err());
    assert!(resolve(&request, b"", &huge).is_err());
    let many: Vec<i64> = (0..70_000).collect();
    let request = Request {
        supplemental_groups: &many,
        ..Request::default()
    };
    assert!(resolve(&request, b"", b"").is_err());
}

proptest! {
    /// Whatever the files hold, a name never becomes another account's id and nothing panics.
    #[test]
    fn any_files(passwd in "([a-z0-9:,#\n+-]|\\PC){0,200}", group in "[a-z0-9:,\n]{0,200}", user in "[a-z0-9:]{0,6}") {
        let request = Request { image_user: &user, ..Request::default() };
        if let Ok(id) = resolve(&request, passwd.as_bytes(), group.as_bytes()) {
            prop_assert_eq!(id.additional_gids.first(), Some(&id.gid));
            if let (Some(name), Some(first)) = (&id.username, user.split(':').next())
                && first.bytes().any(|b| b.is_ascii_lowercase())
            {
                prop_assert_eq!(name, first);
            }
        }
    }
}
