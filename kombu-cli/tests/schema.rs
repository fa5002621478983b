//! The JSON Schema of configuration files, as editors get it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use serde_json::Value;

use self::common::run;

#[tokio::test]
async fn the_schema_is_that_of_the_documents() {
    let done = run("memory://", &["schema"]).await;
    assert_eq!(done.code, Some(0), "{}", done.errors);
    let written: Value = serde_json::from_str(done.text()).unwrap();
    let documented = include_str!("../../docs/kombu.schema.json");
    assert!(written == serde_json::from_str::<Value>(documented).unwrap());
}
