//! Sets a `cfg` for each broker that tests can reach; where there is none, its tests are shown as ignored.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(kombu_test_amqp)");
    println!("cargo::rerun-if-env-changed=KOMBU_TEST_AMQP_URL");
    if std::env::var_os("KOMBU_TEST_AMQP_URL").is_some() {
        println!("cargo::rustc-cfg=kombu_test_amqp");
    }
}
