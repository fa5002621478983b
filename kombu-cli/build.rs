//! Sets a `cfg` for each broker that the tests can reach; where there is none, its tests are shown as ignored.

fn main() {
    for broker in ["amqp", "redis", "nats"] {
        let variable = format!("KOMBU_TEST_{}_URL", broker.to_uppercase());
        println!("cargo::rerun-if-env-changed={variable}");
        println!("cargo::rustc-check-cfg=cfg(kombu_test_{broker})");
        if std::env::var_os(&variable).is_some() {
            println!("cargo::rustc-cfg=kombu_test_{broker}");
        }
    }
}
