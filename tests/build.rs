//! Sets a `cfg` for each broker that tests can reach, alone and together with Python; where there is none, its tests are
//! shown as ignored.

fn main() {
    let python = is_set("KOMBU_TEST_PYTHON");
    for broker in ["amqp", "redis", "nats"] {
        let is_there = is_set(&format!("KOMBU_TEST_{}_URL", broker.to_uppercase()));
        for (name, holds) in [
            (format!("kombu_test_{broker}"), is_there),
            (format!("kombu_test_{broker}_python"), is_there && python),
        ] {
            println!("cargo::rustc-check-cfg=cfg({name})");
            if holds {
                println!("cargo::rustc-cfg={name}");
            }
        }
    }
}

fn is_set(variable: &str) -> bool {
    println!("cargo::rerun-if-env-changed={variable}");
    std::env::var_os(variable).is_some()
}
