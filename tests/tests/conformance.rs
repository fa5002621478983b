//! What every transport does, on every transport.

use kombu_testkit::awkward::AwkwardHarness;
use kombu_testkit::conformance;
use kombu_tests::MemoryHarness;

conformance!(
    amqp,
    kombu_tests::AmqpHarness::new(),
    ignore_unless = kombu_test_amqp
);
conformance!(
    redis,
    kombu_tests::RedisHarness::new(),
    ignore_unless = kombu_test_redis
);
conformance!(
    nats,
    kombu_tests::NatsHarness::new(),
    ignore_unless = kombu_test_nats
);
conformance!(
    nats_in_memory,
    kombu_tests::NatsHarness::in_memory(),
    ignore_unless = kombu_test_nats
);
conformance!(memory, MemoryHarness::new());
conformance!(awkward, AwkwardHarness::new());
