//! The examples on brokers, as programs: each prints what it prints on memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(
    not(all(kombu_test_amqp, kombu_test_nats, kombu_test_redis)),
    allow(dead_code, unused_imports)
)]

use std::path::Path;
use std::process::Stdio;

use kombu_testkit::Harness;
use kombu_testkit::brokers::Redis;
use kombu_tests::{AmqpHarness, NatsHarness, RedisHarness};
use tokio::process::Command;

const QUICKSTART: &str = env!("CARGO_BIN_EXE_example-quickstart");
const FIRST_STEPS: &str = env!("CARGO_BIN_EXE_example-first-steps");
const ORDERS: &str = env!("CARGO_BIN_EXE_example-orders");
const SEEDS: &str = env!("CARGO_BIN_EXE_example-seeds");
const ANSWERS: &str = env!("CARGO_BIN_EXE_example-answers");
const CONTROL: &str = env!("CARGO_BIN_EXE_example-control");
const CONFIG: &str = env!("CARGO_BIN_EXE_example-config");
const PIPELINE: &str = env!("CARGO_BIN_EXE_example-pipeline");
const CELERY: &str = env!("CARGO_BIN_EXE_example-celery");
const NEWSROOM_ON_MEMORY: &str = env!("CARGO_BIN_EXE_example-newsroom-memory");
const NEWSROOM_ON_AMQP: &str = env!("CARGO_BIN_EXE_example-newsroom-amqp");
const NEWSROOM_ON_NATS: &str = env!("CARGO_BIN_EXE_example-newsroom-nats");
const NEWSROOM_ON_REDIS: &str = env!("CARGO_BIN_EXE_example-newsroom-redis");

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");

/// A program that knows of no broker but what it is told.
fn program(path: &str) -> Command {
    let mut command = Command::new(path);
    for variable in [
        "KOMBU_URL",
        "AMQP_URL",
        "NATS_URL",
        "REDIS_URL",
        "PIPELINE_URL",
    ] {
        command.env_remove(variable);
    }
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

/// What it prints; it has to succeed.
async fn output(command: &mut Command) -> String {
    let output = command.output().await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a program on memory and on a broker, and compares.
async fn prints_the_same(harness: &impl Harness, path: &str, arguments: &[&str]) -> String {
    let broker = harness.broker().await;
    let on_memory = output(program(path).args(arguments)).await;
    let mut command = program(path);
    command.args(["--url", broker.url()]).args(arguments);
    let on_broker = output(&mut command).await;
    assert_eq!(on_broker, on_memory);
    on_memory
}

async fn quickstart_prints_the_same(harness: &impl Harness) {
    let events = Path::new(EXAMPLES).join("data/events.jsonl");
    let printed = prints_the_same(harness, QUICKSTART, &[events.to_str().unwrap()]).await;
    assert_eq!(printed.matches(" ok\n").count(), 3, "{printed}");
}

async fn first_steps_print_the_same(harness: &impl Harness) {
    let printed = prints_the_same(harness, FIRST_STEPS, &[]).await;
    assert_eq!(printed.matches("received Hello world!\n").count(), 3);
}

async fn orders_print_the_same(harness: &impl Harness) {
    let printed = prints_the_same(harness, ORDERS, &[]).await;
    assert!(
        printed.contains("7 plums taken at attempt 2\n"),
        "{printed}"
    );
}

async fn answers_print_the_same(harness: &impl Harness) {
    let printed = prints_the_same(harness, ANSWERS, &[]).await;
    assert_eq!(
        printed,
        "corner: 18\nmarket: 12\n3\n2\n1\njob: dig\njob: sow\njob: reap\n\
         dig is noted\nsow is noted\nreap is noted\nann: dig, reap\nben: sow\n"
    );
}

async fn control_prints_the_same(harness: &impl Harness) {
    let printed = prints_the_same(harness, CONTROL, &[]).await;
    assert!(printed.starts_with("left: 6\nright: 6\n"), "{printed}");
}

/// All programs of the example `seeds`, in an order in which each has somebody to talk to.
const PROGRAMS: [&str; 20] = [
    "puka_send",
    "puka_async_send",
    "puka_send",
    "puka_receive",
    "occo_async_producer",
    "occo_infinite_consumer",
    "occo_async_producer",
    "occo_interruptable_consumer",
    "occo_rpc_producer",
    "kombu_overview",
    "kombu_declarations",
    "kombu_feed",
    "kombu_serialization",
    "kombu_raw_data",
    "kombu_own_classes",
    "postage_my_exchange",
    "postage_generic_message",
    "postage_ping",
    "postage_quit",
    "canopsis_uris",
];

/// What they print.
const PRINTED_BY_SEEDS: &str = " [*] Message sent
 [*] Message sent
 [*] Message sent
 [x] Received message \"Hello world!\"
 [x] Received message \"Hello world!\"
 [x] Received message \"Hello world!\"
pushed
test message
the end
pushed
test message
interrupted: Stopped
TEST MESSAGE
the application says UnknownMessage: another one
seeds.video: /tmp/lolcat1.avi 1301013
seeds.image: /tmp/lolcat2.png 7007
deleted: true
seeds.tasks is Direct
Got feed import message for: http://cnn.com/rss/edition.rss
application/x-yaml: [\"lolcat1.avi\", \"lolcat2.avi\"]
application/x-msgpack: [\"lolcat1.avi\", \"lolcat2.avi\"]
image/jpeg binary: [255, 216, 255, 224]
importing http://cnn.com/rss/edition.rss
failed: delete_feed
seeds.my-custom-exchange: Topic, durable: true, auto_delete: false
[Number(1), Text(\"str\")] {\"values\": List([Number(1), Number(2), Text(\"numbers\")])}
from this process: true
Some(\"ping\") from Some(\"pinger\"), Some(\"example\"): true
status: Some(\"ready\")
sum: Success { value: 6, message: \"\" }
quit
Quit
amqp, PubSub: Some(\"canopsis\") at Some(\"demo.canopsis.org\")
sent to 2 senders
seeds.events: it rains
seeds.events: it rains
seeds.jobs: dig
";

async fn seeds_programs_print_the_same(harness: &impl Harness) {
    let printed = prints_the_same(harness, SEEDS, &PROGRAMS).await;
    assert_eq!(printed, PRINTED_BY_SEEDS);
}

async fn shop_runs(harness: &impl Harness) {
    let file = Path::new(EXAMPLES).join("config/shop.yaml");
    assert_eq!(
        prints_the_same(harness, CONFIG, &[file.to_str().unwrap()]).await,
        SHOP
    );
    let broker = harness.broker().await;
    let mut command = program(CONFIG);
    command.env("KOMBU_URL", broker.url()).arg(file);
    assert_eq!(output(&mut command).await, SHOP);
}

/// Runs the library by a program for one broker, which finds it by an argument and by this variable.
async fn newsroom_prints_the_same(harness: &impl Harness, path: &str, variable: &str) {
    let broker = harness.broker().await;
    let on_memory = output(&mut program(NEWSROOM_ON_MEMORY)).await;
    assert!(on_memory.starts_with("culture, articles: 2"), "{on_memory}");
    let by_argument = output(program(path).args(["--url", broker.url()])).await;
    assert_eq!(by_argument, on_memory);
    let by_variable = output(program(path).env(variable, broker.url())).await;
    assert_eq!(by_variable, on_memory);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn the_quickstart_prints_the_same_on_rabbitmq() {
    quickstart_prints_the_same(&AmqpHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test against")]
async fn the_quickstart_prints_the_same_on_redis() {
    quickstart_prints_the_same(&RedisHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn the_quickstart_prints_the_same_on_nats() {
    quickstart_prints_the_same(&NatsHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn the_first_steps_print_the_same_on_rabbitmq() {
    first_steps_print_the_same(&AmqpHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test against")]
async fn the_first_steps_print_the_same_on_redis() {
    first_steps_print_the_same(&RedisHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn the_first_steps_print_the_same_on_nats() {
    first_steps_print_the_same(&NatsHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn the_orders_print_the_same_on_rabbitmq() {
    orders_print_the_same(&AmqpHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test against")]
async fn the_orders_print_the_same_on_redis() {
    orders_print_the_same(&RedisHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn the_orders_print_the_same_on_nats() {
    orders_print_the_same(&NatsHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn the_answers_print_the_same_on_rabbitmq() {
    answers_print_the_same(&AmqpHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn the_workers_are_controlled_on_rabbitmq() {
    control_prints_the_same(&AmqpHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test against")]
async fn the_answers_print_the_same_on_redis() {
    answers_print_the_same(&RedisHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test against")]
async fn the_workers_are_controlled_on_redis() {
    control_prints_the_same(&RedisHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn the_answers_print_the_same_on_nats() {
    answers_print_the_same(&NatsHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn the_workers_are_controlled_on_nats() {
    control_prints_the_same(&NatsHarness::new()).await;
}

#[tokio::test]
async fn the_seeds_programs_run_on_memory() {
    let printed = output(program(SEEDS).args(PROGRAMS)).await;
    assert_eq!(printed, PRINTED_BY_SEEDS);
    let mut programs = std::fs::read_dir(Path::new(EXAMPLES).join("seeds")).unwrap();
    // None is forgotten.
    let forgotten = programs.find(|file| {
        let path = file.as_ref().unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        name.contains('_') && !PROGRAMS.contains(&name)
    });
    assert!(forgotten.is_none(), "{forgotten:?}");
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn the_seeds_programs_print_the_same_on_rabbitmq() {
    seeds_programs_print_the_same(&AmqpHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test against")]
async fn the_seeds_programs_print_the_same_on_redis() {
    seeds_programs_print_the_same(&RedisHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn the_seeds_programs_print_the_same_on_nats() {
    seeds_programs_print_the_same(&NatsHarness::new()).await;
}

/// What the example `config` prints with the file that comes with it.
const SHOP: &str = "\
invoices: book.paid
invoices: record.paid
parcels: record.returned
parcels: book.paid
others: book.praised
";

#[tokio::test]
async fn one_file_runs_on_memory() {
    let file = Path::new(EXAMPLES).join("config/shop.yaml");
    assert_eq!(output(program(CONFIG).arg(file)).await, SHOP);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn the_same_file_runs_on_rabbitmq_by_argument_or_environment() {
    shop_runs(&AmqpHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test against")]
async fn the_same_file_runs_on_redis_by_argument_or_environment() {
    shop_runs(&RedisHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn the_same_file_runs_on_nats_by_argument_or_environment() {
    shop_runs(&NatsHarness::new()).await;
}

/// What the example `pipeline` prints with the file that comes with it.
const PIPELINED: &str = "\
small: \"101 apple: 303, attempt 2\"
small: \"7 apple: 21, attempt 1\"
large: \"2 piano: 10000, attempt 1\"
failed: {\"item\":\"unicorn\",\"count\":1} (rejected)
strays: \"what is this?\"
";

fn pipeline() -> String {
    format!("{EXAMPLES}/config/pipeline.yaml")
}

async fn pipeline_runs(harness: &impl Harness) {
    let file = pipeline();
    let printed = prints_the_same(harness, PIPELINE, &[&file]).await;
    assert_eq!(printed, PIPELINED);
    let broker = harness.broker().await;
    for variable in ["KOMBU_URL", "PIPELINE_URL"] {
        let mut command = program(PIPELINE);
        command.arg(&file).env(variable, broker.url());
        assert_eq!(output(&mut command).await, PIPELINED, "{variable}");
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn the_pipeline_of_one_file_runs_on_rabbitmq() {
    pipeline_runs(&AmqpHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test against")]
async fn the_pipeline_of_one_file_runs_on_redis() {
    pipeline_runs(&RedisHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn the_pipeline_of_one_file_runs_on_nats() {
    pipeline_runs(&NatsHarness::new()).await;
}

#[tokio::test]
async fn the_pipeline_of_one_file_runs_on_memory() {
    assert_eq!(output(program(PIPELINE).arg(pipeline())).await, PIPELINED);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn the_library_prints_the_same_edition_on_rabbitmq() {
    newsroom_prints_the_same(&AmqpHarness::new(), NEWSROOM_ON_AMQP, "AMQP_URL").await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test against")]
async fn the_library_prints_the_same_edition_on_redis() {
    newsroom_prints_the_same(&RedisHarness::new(), NEWSROOM_ON_REDIS, "REDIS_URL").await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn the_library_prints_the_same_edition_on_nats() {
    newsroom_prints_the_same(&NatsHarness::new(), NEWSROOM_ON_NATS, "NATS_URL").await;
}

/// A worker with the tasks of the example. It ends when it is dropped.
fn worker(url: &str) -> tokio::process::Child {
    let python =
        std::env::var_os("KOMBU_TEST_PYTHON").expect("KOMBU_TEST_PYTHON says where Python is");
    Command::new(python)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONWARNINGS", "ignore")
        .args(["-m", "celery", "--app", "tasks", "--broker", url])
        .arg("--workdir")
        .arg(Path::new(EXAMPLES).join("celery"))
        .args(["worker", "--pool", "solo", "--loglevel", "CRITICAL"])
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// What the example `celery` prints.
const TASKS: &str = "\
tasks.add[2,3] = 5
tasks.add[\"Grüße, \",\"世界\"] = \"Grüße, 世界\"
tasks.divide[1,0] failed: ZeroDivisionError: [\"division by zero\"]
";

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
async fn a_celery_worker_runs_the_tasks_of_the_example_and_its_results_are_printed() {
    let broker = AmqpHarness::new().broker().await;
    let _worker = worker(broker.url());
    let printed = output(program(CELERY).args(["--url", broker.url()])).await;
    assert_eq!(printed, TASKS);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn a_celery_worker_on_redis_runs_the_tasks_of_the_example() {
    // One that nobody else uses: the worker takes what is in the queue `celery`.
    let redis = Redis::start().unwrap();
    let _worker = worker(&redis.url());
    let printed = output(program(CELERY).args(["--url", &redis.url()])).await;
    assert_eq!(printed, TASKS);
}
