//! What is wrong with the URL of a Redis is said before anybody is connected to.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use kombu::{Connection, ErrorKind};

#[tokio::test]
async fn what_is_wrong_with_a_url_is_named_with_the_way_out() {
    for (url, wanted) in [
        ("redis://h/?prefx=a", "did you mean `prefix`"),
        (
            "redis://h/?zzzz=a",
            "known are: db, virtual_host, prefix, lease, layout, fanout",
        ),
        ("redis://h/?lease=soon", "`lease` must be a whole number"),
        (
            "redis://h/?lease=0",
            "`lease` is 0; it has to be at least 1 s",
        ),
        ("redis://h/?db=first", "`db` must be a whole number"),
        ("redis://h/?virtual_host=1", "`virtual_host` is for"),
        (
            "redis+socket:///s?virtual_host=1&db=2",
            "`virtual_host` and `db` name different databases",
        ),
        ("redis://h/?layout=komb", "did you mean `kombu`"),
        ("redis://h/?fanout=komb", "did you mean `kombu`"),
        ("redis://h/?fanout=python", "must be one of ours, kombu"),
        (
            "redis://h/?max_message_size=1k",
            "`max_message_size` must be",
        ),
        ("redis://h/one", "`one` is no number of a database"),
        ("redis://h/1/2", "`1/2` is no number of a database"),
        ("redis://h/1?db=2", "name different databases"),
        (
            "redis://h/?ca_file=ca.pem",
            "`ca_file` needs TLS; write `rediss://`",
        ),
        ("redis://h/?server_name=n", "`server_name` needs TLS"),
        ("redis+unix:///s?cert_file=c.pem", "`cert_file` needs TLS"),
        (
            "redis+sentinel://h/m?ca_file=ca.pem",
            "`ca_file` needs TLS; write `rediss+sentinel://`",
        ),
        (
            "redis://h/?sentinel_password=a-secret",
            "`sentinel_password` is for",
        ),
        (
            "rediss://h/?sentinel_username=u",
            "`sentinel_username` is for",
        ),
        ("rediss://h/?key_file=k.pem", "`cert_file`"),
        (
            "rediss://h/?ca_file=a.pem&extra_ca_file=b.pem",
            "`extra_ca_file`",
        ),
        ("rediss://h/?verify=none", "`verify` is unknown"),
        ("rediss://h/?insecure=true", "`insecure` is unknown"),
        ("rediss://h/?ca_file=/nowhere/ca.pem", "`/nowhere/ca.pem`"),
        ("redis+unix://elsewhere/s", "a socket is on this machine"),
        ("redis+sentinel://h1,h2", "the path is no name of a master"),
        (
            "redis+sentinel://h1,h2/m/0",
            "the path is no name of a master",
        ),
        ("redis+sentinel://h1,h2:x/m", "malformed URL"),
        ("redis://:%FF@h", "the password of the URL isn't UTF-8"),
    ] {
        let builder = Connection::builder(kombu::registry()).url(url);
        let error = builder.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{url}: {error}");
        let text = format!("{error} {error:?}");
        assert!(text.contains(wanted), "{url}: {text}");
        assert!(!text.contains("a-secret"), "{url}: {text}");
    }
}

#[test]
fn passwords_of_sentinels_are_not_shown() {
    let secret = kombu::redis::Secret::new("a-secret");
    assert_eq!(format!("{secret:?}"), "**");
}
