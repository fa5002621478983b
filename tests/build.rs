//! Sets a `cfg` for each broker that tests can reach, and for Python; where there is none, its tests are shown as ignored.

fn main() {
    for (name, variable) in [
        ("amqp", "KOMBU_TEST_AMQP_URL"),
        ("redis", "KOMBU_TEST_REDIS_URL"),
        ("nats", "KOMBU_TEST_NATS_URL"),
        ("python", "KOMBU_TEST_PYTHON"),
    ] {
        println!("cargo::rustc-check-cfg=cfg(kombu_test_{name})");
        println!("cargo::rerun-if-env-changed={variable}");
        if std::env::var_os(variable).is_some() {
            println!("cargo::rustc-cfg=kombu_test_{name}");
        }
    }
}
