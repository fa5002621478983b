//! What is promised, with the fault that would break it: each scenario is told once, and runs on memory, where faults are injected,
//! and on private brokers, which are broken for real.
//!
//! `scripts/test --faults` sets `KOMBU_TEST_FAULTS=long`: then everything happens as often as `docs/reliability.md` says, and less
//! often otherwise. `KOMBU_TEST_FAULTS_TABLE` names a file that each scenario adds its rows to, as lines of JSON; with
//! `KOMBU_TEST_FAULTS_HISTORIES`, a folder, each leaves its whole history there, as lines of JSON too. The seed of a run is printed,
//! and `KOMBU_TEST_SEED` takes it again; how tasks take turns is the machine's choice all the same. `KOMBU_TEST_ENTRY` takes the seed of
//! one malformed entry, to write that alone.
//!
//! Scenarios run beside each other, but for those that count what the process has.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod clocks;
mod confirmed;
mod credentials;
mod deadlines;
mod deadly;
mod deploys;
mod malformed;
mod promoted;
mod readme;
mod reconnects;
mod stand;
mod storms;
mod traffic;
mod unreachable;
mod wiped;
mod workers;

use stand::Turn;

/// Makes a test for each transport of a scenario, `async fn(&mut Breakable)`.
macro_rules! on_every_broker {
    ($name:ident, $turn:expr, $scenario:expr) => {
        mod $name {
            use crate::stand::Turn;

            #[test]
            fn memory() {
                crate::stand::on_memory($turn, $scenario);
            }

            crate::each_server!($turn, $scenario);
        }
    };
}

/// The same for what takes a server.
macro_rules! on_every_server {
    ($name:ident, $turn:expr, $scenario:expr) => {
        mod $name {
            use crate::stand::Turn;

            crate::each_server!($turn, $scenario);
        }
    };
}

macro_rules! each_server {
    ($turn:expr, $scenario:expr) => {
        #[test]
        #[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
        fn amqp() {
            crate::stand::on_rabbitmq($turn, $scenario);
        }

        #[test]
        #[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
        fn redis() {
            crate::stand::on_redis($turn, $scenario);
        }

        #[test]
        #[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
        fn nats() {
            crate::stand::on_nats($turn, $scenario);
        }
    };
}

use each_server;

on_every_broker!(
    what_was_confirmed_survives_a_broker_that_is_killed,
    Turn::BesideOthers,
    crate::confirmed::in_a_durable_queue
);
on_every_broker!(
    nothing_is_lost_and_nobody_stalls_whatever_happens,
    Turn::AloneIfLong,
    crate::traffic::under_mixed_faults
);
on_every_broker!(
    nobody_stalls_whose_network_fails_again_while_it_comes_back,
    Turn::BesideOthers,
    crate::storms::stall_nobody
);
on_every_broker!(
    what_a_program_held_that_was_killed_comes_back_to_its_queue,
    Turn::BesideOthers,
    crate::workers::are_killed
);
on_every_broker!(
    every_call_ends_by_its_deadline,
    Turn::BesideOthers,
    crate::deadlines::hold_whatever_happens
);
on_every_broker!(
    a_broker_that_was_wiped_has_everything_again,
    Turn::BesideOthers,
    crate::wiped::is_declared_again
);
on_every_broker!(
    deploys_lose_nothing_and_kill_no_message,
    Turn::BesideOthers,
    crate::deploys::under_load
);
on_every_broker!(
    reconnects_leave_nothing_behind,
    Turn::Alone,
    crate::reconnects::leave_nothing
);
on_every_broker!(
    the_program_of_the_readme_survives_kills,
    Turn::BesideOthers,
    crate::readme::survives_kills
);
on_every_broker!(
    malformed_entries_are_data_and_stop_nobody,
    Turn::BesideOthers,
    crate::malformed::is_data
);
on_every_server!(
    a_broker_that_was_silent_amid_publishes_has_no_session_twice,
    Turn::Alone,
    crate::reconnects::keep_no_session
);
on_every_server!(
    a_network_that_swallows_everything_is_noticed_in_time,
    Turn::BesideOthers,
    crate::unreachable::is_noticed
);
on_every_server!(
    passwords_are_revoked_and_replaced_and_told_to_nobody,
    Turn::Alone,
    crate::credentials::are_revoked_and_replaced
);
on_every_server!(
    delays_and_lives_are_right_where_clocks_are_wrong,
    Turn::BesideOthers,
    crate::clocks::are_wrong
);

// What not all of them have is named after them as well: `scripts/test --faults redis` means all of Redis.

/// Redis and memory don't count what comes back because its holder has died, and a program with memory's broker takes that along.
mod a_message_that_kills_whoever_handles_it_is_dead_lettered {
    use super::Turn;

    #[test]
    #[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
    fn amqp() {
        crate::stand::on_rabbitmq(Turn::BesideOthers, crate::deadly::is_bounded);
    }

    #[test]
    #[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
    fn nats() {
        crate::stand::on_nats(Turn::BesideOthers, crate::deadly::is_bounded);
    }
}

mod what_was_confirmed_survives_in_a_quorum_queue {
    #[test]
    #[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
    fn amqp() {
        crate::stand::on_rabbitmq(
            super::Turn::BesideOthers,
            crate::confirmed::in_a_quorum_queue,
        );
    }
}

mod deploys_lose_nothing_of_a_quorum_queue {
    #[test]
    #[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
    fn amqp() {
        crate::stand::on_rabbitmq(super::Turn::BesideOthers, crate::deploys::of_a_quorum_queue);
    }
}

mod what_a_replica_had_is_there_when_it_is_promoted {
    #[test]
    #[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
    fn redis() {
        crate::stand::with_redis(crate::promoted::takes_over());
    }
}
