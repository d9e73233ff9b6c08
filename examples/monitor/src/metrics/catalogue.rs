//! Every metric there is: name, kind, labels and what it says. The only place that names one.
//!
//! A label takes few values: what the configuration names, or a word of ours. Names of workers, jobs and
//! people are never labels.

use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts};

/// What a metric does over time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// It only rises.
    Counter,
    /// It goes up and down.
    Gauge,
    /// It sorts what it sees by size: these are the upper bounds.
    Histogram(&'static [f64]),
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, which ends with its unit.
    pub name: &'static str,
    /// What it does over time.
    pub kind: Kind,
    /// What tells its series apart.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// For calls to a hypervisor, a forge or an image store.
const CALLS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];
/// For requests to us.
const REQUESTS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];
/// For what becomes of machines and jobs before they are at work.
const STARTS: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0];
/// For jobs.
const RUNS: &[f64] =
    &[0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 21600.0];

macro_rules! catalogue {
    ($($id:ident: $kind:expr, $name:literal, [$($label:literal),*], $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $id: Metric =
                Metric { name: $name, kind: $kind, labels: &[$($label),*], help: $help };
        )*
        /// All of them, in the order of the documentation.
        pub const ALL: &[Metric] = &[$($id),*];
    };
}

use Kind::{Counter, Gauge, Histogram};

catalogue! {
    BUILD_INFO: Gauge, "monitor_build_info", ["version"], "Always 1; the label is the version that runs.";

    WORKERS: Gauge, "monitor_workers", ["profile", "phase"], "Workers in this phase.";
    MIN_IDLE: Gauge, "monitor_profile_min_idle_workers", ["profile"], "Workers to keep ready.";
    MAX: Gauge, "monitor_profile_max_workers", ["profile"], "Workers that there may be.";
    PROFILE_QUEUED: Gauge, "monitor_profile_queued_jobs", ["profile"], "Jobs that wait for this profile.";
    PROFILE_QUEUE_AGE: Gauge, "monitor_profile_queue_oldest_age_seconds", ["profile"],
        "How long the oldest job that this profile serves has waited; 0 if none waits.";
    QUEUED: Gauge, "monitor_forge_queued_jobs", ["forge"], "Jobs that wait at this forge.";
    QUEUE_AGE: Gauge, "monitor_forge_queue_oldest_age_seconds", ["forge"],
        "How long the oldest job at this forge has waited; 0 if none waits.";
    HELD: Gauge, "monitor_held", ["what", "why_not"],
        "Things wanted and not done, by what they are and what keeps them.";
    FAILING: Gauge, "monitor_backing_off", ["what"], "Things that failed and wait for their next try.";
    RESERVATIONS: Gauge, "monitor_reservations", [], "Promises of workers that hold.";
    DRAINING: Gauge, "monitor_draining", [], "1 while the pool is being emptied.";
    IN_FLIGHT: Gauge, "monitor_actions_in_flight", [], "Actions that are being carried out.";
    ACTIONS_MAX: Gauge, "monitor_actions_limit", [], "How many machines and images may be made and unmade at once; as many runners may be marked beside that.";
    STATUS_AGE: Gauge, "monitor_status_age_seconds", [],
        "How old the published status is; it grows only when the pool's loop does not turn.";
    SEEN: Gauge, "monitor_source_seen", ["source"],
        "1 if the list of this source could be read in full the last time, 0 if not.";
    BLIND: Counter, "monitor_source_blind_seconds_total", ["source"],
        "For how long the list of this source could not be read.";

    CAPACITY_VCPUS: Gauge, "monitor_capacity_vcpus", [], "Virtual CPUs that the host has for machines.";
    CAPACITY_MEMORY: Gauge, "monitor_capacity_memory_bytes", [], "Memory that the host has for machines.";
    CAPACITY_DISK: Gauge, "monitor_capacity_disk_bytes", [], "Disk space that the host has for machines.";
    USED_VCPUS: Gauge, "monitor_used_vcpus", [], "Virtual CPUs that machines hold.";
    USED_MEMORY: Gauge, "monitor_used_memory_bytes", [], "Memory that machines hold.";
    USED_DISK: Gauge, "monitor_used_disk_bytes", [], "Disk space that machines may fill.";
    DATA_FREE: Gauge, "monitor_data_free_bytes", [], "Free space where the data directory is.";
    DATA_SIZE: Gauge, "monitor_data_size_bytes", [], "Size of the file system that the data directory is on.";

    IMAGES: Gauge, "monitor_images", ["profile"], "Images there are.";
    IMAGE_BYTES: Gauge, "monitor_images_size_bytes", ["profile"], "Disk space that the images take.";
    IMAGE_BUILT: Gauge, "monitor_image_built_timestamp_seconds", ["profile"], "When the newest image was built.";
    BUILDS: Counter, "monitor_image_builds_total", ["profile", "result"], "Image builds: ok or failed.";
    BUILD_TIME: Histogram(RUNS), "monitor_image_build_duration_seconds", ["profile"],
        "How long image builds that went well took.";

    DECISIONS: Counter, "monitor_decisions_total", ["action", "why"], "Actions begun, by their reason.";
    ACTIONS: Counter, "monitor_actions_total", ["action", "result"], "Actions ended: ok or failed.";
    ACTION_TIME: Histogram(STARTS), "monitor_action_duration_seconds", ["action"],
        "How long actions that went well took.";
    RETIRED: Counter, "monitor_workers_retired_total", ["profile", "why"],
        "Workers that were begun to be retired, each counted once.";
    START_FAILURES: Counter, "monitor_worker_start_failures_total", ["profile", "why"],
        "Workers that failed before they were ready.";
    WORKER_START: Histogram(STARTS), "monitor_worker_start_duration_seconds", ["profile"],
        "From the decision to make a worker until it was ready.";
    WORKER_BOOT: Histogram(STARTS), "monitor_worker_boot_duration_seconds", ["profile"],
        "From a machine's start until its worker was ready.";

    JOBS_QUEUED: Counter, "monitor_jobs_queued_total", ["forge"], "Jobs that were queued; one that was taken back from a worker that could not start it counts again.";
    JOBS: Counter, "monitor_jobs_total", ["profile", "outcome"],
        "Jobs that are over; without a profile, if no worker ever had it and it named none.";
    JOB_START: Histogram(STARTS), "monitor_job_start_duration_seconds", ["profile", "start"],
        "From a job's submission to its command's start, told when the job is over. Hot: its worker was ready before the job came; cold: it was not.";
    JOB_RUN: Histogram(RUNS), "monitor_job_run_duration_seconds", ["profile", "start"],
        "From a job's command's start to the job's end.";

    FORGE_CALLS: Counter, "monitor_forge_calls_total", ["forge", "call", "result"],
        "Calls to a forge that ended: ok, or the kind of error, such as rate_limited.";
    FORGE_TIME: Histogram(CALLS), "monitor_forge_call_duration_seconds", ["forge", "call"],
        "How long calls to a forge took; drive lasts as long as its runner and is left out.";
    FORGE_WELL: Gauge, "monitor_forge_usable", ["forge"],
        "1 if the forge could be used when it was last called, 0 if not.";
    FORGE_SOURCE: Gauge, "monitor_forge_demand_source_usable", ["forge", "source", "profile"],
        "1 if this way of knowing what waits can be relied upon, 0 if not; without a profile, where it speaks of all.";
    FORGE_ACTIVE: Gauge, "monitor_forge_demand_source_active", ["forge", "source", "profile"],
        "1 for the way in which is known what waits for the profile at the moment.";
    FORGE_FLAPS: Gauge, "monitor_forge_start_failures", ["forge", "profile"],
        "Runners in a row that never came online; the forge makes no more for a while when there are many.";
    FORGE_GHOSTS: Gauge, "monitor_forge_ghosts", ["forge"],
        "Registrations that share their name with another, and will be removed.";
    FORGE_PROGRAM: Gauge, "monitor_forge_program_refused_timestamp_seconds", ["forge", "profile", "version"],
        "From when on the forge may refuse the runner program in the image of a profile.";
    FORGE_REQUESTS: Counter, "monitor_forge_requests_total", ["forge", "purpose"],
        "Requests to the forge's API, by what they were for: running, provision, look or poll.";
    FORGE_UNCHANGED: Counter, "monitor_forge_requests_unchanged_total", ["forge"],
        "Requests that were answered that nothing had changed, which is free of the hourly limit.";
    FORGE_REFUSED: Counter, "monitor_forge_requests_refused_total", ["forge"],
        "Requests that the forge refused because of a limit; above zero, others spend from the same budget.";
    FORGE_GIVEN_UP: Counter, "monitor_forge_requests_given_up_total", ["forge"],
        "Requests that were not made, because their turn would have come too late.";
    FORGE_WAITED: Counter, "monitor_forge_requests_wait_seconds_total", ["forge"],
        "For how long requests waited for their turn.";
    FORGE_IN_FLIGHT: Gauge, "monitor_forge_requests_in_flight", ["forge"], "Requests under way.";
    FORGE_WAITING: Gauge, "monitor_forge_requests_waiting", ["forge"], "Requests that wait for their turn.";
    FORGE_POINTS: Gauge, "monitor_forge_points_last_minute", ["forge"],
        "Points spent within the last minute: reading costs 1, changing 5.";
    FORGE_MINTS: Gauge, "monitor_forge_registrations_last_minute", ["forge"],
        "Runners registered within the last minute.";
    FORGE_PAUSED: Gauge, "monitor_forge_paused_seconds", ["forge"],
        "For how long the forge does not want to be asked.";
    FORGE_LIMIT: Gauge, "monitor_forge_hourly_limit", ["forge", "resource"], "Requests that an hour has.";
    FORGE_LEFT: Gauge, "monitor_forge_hourly_remaining", ["forge", "resource"],
        "Requests that are left of this hour's.";
    FORGE_RESET: Gauge, "monitor_forge_hourly_reset_seconds", ["forge", "resource"],
        "For how long this hour still lasts.";
    DELIVERIES: Counter, "monitor_webhook_deliveries_total", ["forge", "outcome"],
        "Deliveries of the forge's webhook: accepted, repeated, ignored or refused; recovered from its log; lost, as another source told of their job; and jobs forgotten for want of room.";
    HEARD: Gauge, "monitor_webhook_heard_timestamp_seconds", ["forge"],
        "When the last delivery came that was signed.";
    PEER_WELL: Gauge, "monitor_queue_server_usable", ["server"],
        "1 if this monitor of queue.servers could be asked for workers the last time, 0 if not.";
    PEER_IDLE: Gauge, "monitor_queue_server_idle_workers", ["server", "profile"],
        "Idle workers that this monitor of queue.servers had when it last said so.";
    HYPERVISOR_CALLS: Counter, "monitor_hypervisor_calls_total", ["call", "result"],
        "Calls to the hypervisor that ended: ok, or the kind of error.";
    HYPERVISOR_TIME: Histogram(CALLS), "monitor_hypervisor_call_duration_seconds", ["call"],
        "How long calls to the hypervisor took.";

    REQUESTS_TOTAL: Counter, "monitor_http_requests_total", ["route", "method", "status"],
        "Requests answered; the route is its pattern, or `none`.";
    REQUEST_TIME: Histogram(REQUESTS), "monitor_http_request_duration_seconds", ["route", "method"],
        "How long answers took; of a stream, until it began.";
    STREAMS: Gauge, "monitor_http_streams", [], "Streams that are followed.";
    STREAMS_MAX: Gauge, "monitor_http_streams_limit", [], "Streams that may be followed at once.";

    STORE_ERRORS: Counter, "monitor_store_errors_total", [], "Transactions of the store that failed.";
    EVENTS_UNWRITTEN: Gauge, "monitor_events_unwritten", [], "Events that are not in the store yet.";
    EVENTS_LOST: Counter, "monitor_events_uncounted_total", [],
        "Events that came too fast to be counted: what is counted from events lacks these.";
    OTLP: Counter, "monitor_otlp_exports_total", ["result"], "Metrics sent by OTLP: ok or failed.";

    CPU: Counter, "process_cpu_seconds_total", [], "Total user and system CPU time spent in seconds.";
    RSS: Gauge, "process_resident_memory_bytes", [], "Resident memory size in bytes.";
    VIRTUAL: Gauge, "process_virtual_memory_bytes", [], "Virtual memory size in bytes.";
    FDS: Gauge, "process_open_fds", [], "Number of open file descriptors.";
    FDS_MAX: Gauge, "process_max_fds", [], "Maximum number of open file descriptors.";
    THREADS: Gauge, "process_threads", [], "Number of OS threads in the process.";
    STARTED: Gauge, "process_start_time_seconds", [],
        "Start time of the process since unix epoch in seconds.";
}

impl Metric {
    /// A counter of this.
    pub fn counter(&self) -> IntCounterVec {
        IntCounterVec::new(Opts::new(self.name, self.help), self.labels)
            .expect("a test makes every metric")
    }

    /// A counter of this, for what is not counted in whole numbers.
    pub fn seconds(&self) -> prometheus::CounterVec {
        prometheus::CounterVec::new(Opts::new(self.name, self.help), self.labels)
            .expect("a test makes every metric")
    }

    /// A gauge of this.
    pub fn gauge(&self) -> GaugeVec {
        GaugeVec::new(Opts::new(self.name, self.help), self.labels)
            .expect("a test makes every metric")
    }

    /// A histogram of this.
    pub fn histogram(&self) -> HistogramVec {
        let buckets = match self.kind {
            Kind::Histogram(buckets) => buckets.to_vec(),
            Kind::Counter | Kind::Gauge => prometheus::DEFAULT_BUCKETS.to_vec(),
        };
        let options = HistogramOpts::new(self.name, self.help).buckets(buckets);
        HistogramVec::new(options, self.labels).expect("a test makes every metric")
    }
}

/// The unit of a metric by its name's end, as OpenTelemetry writes it.
pub fn unit_of(name: &str) -> &'static str {
    let bare = name.strip_suffix("_total").unwrap_or(name);
    match bare.rsplit_once('_') {
        Some((_, "seconds")) => "s",
        Some((_, "bytes")) => "By",
        _ => "",
    }
}

/// The list as a page.
pub fn page() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         What `GET /metrics` tells and OTLP sends. A test writes this page; do not edit it.\n\n\
         | metric | kind | labels | says |\n|---|---|---|---|\n",
    );
    for metric in ALL {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = labels.join(", ");
        page.push_str(&format!("| `{}` | {kind} | {labels} | {} |\n", metric.name, metric.help));
    }
    page
}
