//! Sets a `cfg` for each broker that tests can reach, and for Python; where there is none, its tests are shown as ignored.

fn main() {
    for name in ["amqp", "redis", "nats", "python"] {
        let variable = match name {
            "python" => "KOMBU_TEST_PYTHON".to_owned(),
            broker => format!("KOMBU_TEST_{}_URL", broker.to_uppercase()),
        };
        println!("cargo::rustc-check-cfg=cfg(kombu_test_{name})");
        println!("cargo::rerun-if-env-changed={variable}");
        if std::env::var_os(variable).is_some() {
            println!("cargo::rustc-cfg=kombu_test_{name}");
        }
    }
}
