//! The families that Prometheus reads, as OTLP has them: the same names and the same values.

use jiff::Timestamp;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};
use prometheus::proto::{self, LabelPair, MetricFamily, MetricType};
use prost::Message;

use crate::metrics::catalogue;

/// Everything in `families`, counted since `began`.
pub fn request(
    families: &[MetricFamily],
    resource: &[(String, String)],
    began: Timestamp,
    now: Timestamp,
) -> ExportMetricsServiceRequest {
    let span = Span { began: nanoseconds(began), now: nanoseconds(now) };
    let metrics = families.iter().filter_map(|family| span.metric(family)).collect();
    let scope = InstrumentationScope {
        name: "monitor".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let scope = ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() };
    let attributes = resource.iter().map(|(key, value)| attribute(key, value)).collect();
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_metrics: vec![scope],
            ..ResourceMetrics::default()
        }],
    }
}

/// What the receiver did not take, if it says so.
pub fn refusal(body: &[u8]) -> Option<String> {
    let partial = ExportMetricsServiceResponse::decode(body).ok()?.partial_success?;
    let (count, why) = (partial.rejected_data_points, partial.error_message);
    (count > 0 || !why.is_empty()).then(|| format!("{count} data points: {why}"))
}

/// The time that is told of.
struct Span {
    began: u64,
    now: u64,
}

impl Span {
    fn metric(&self, family: &MetricFamily) -> Option<Metric> {
        let points = family.get_metric().iter();
        let numbers = |value: fn(&proto::Metric) -> f64| {
            points.clone().map(|metric| self.number(metric, value(metric))).collect()
        };
        let aggregation_temporality = AggregationTemporality::Cumulative.into();
        let data = match family.get_field_type() {
            MetricType::COUNTER => Data::Sum(Sum {
                data_points: numbers(|metric| metric.get_counter().get_value()),
                aggregation_temporality,
                is_monotonic: true,
            }),
            MetricType::GAUGE => {
                Data::Gauge(Gauge { data_points: numbers(|metric| metric.get_gauge().get_value()) })
            }
            MetricType::HISTOGRAM => Data::Histogram(Histogram {
                data_points: points.map(|metric| self.histogram(metric)).collect(),
                aggregation_temporality,
            }),
            // We have none.
            MetricType::SUMMARY | MetricType::UNTYPED => return None,
        };
        Some(Metric {
            name: family.name().to_owned(),
            description: family.help().to_owned(),
            unit: catalogue::unit_of(family.name()).to_owned(),
            data: Some(data),
            ..Metric::default()
        })
    }

    fn number(&self, metric: &proto::Metric, value: f64) -> NumberDataPoint {
        NumberDataPoint {
            attributes: attributes(metric),
            start_time_unix_nano: self.began,
            time_unix_nano: self.now,
            value: Some(number_data_point::Value::AsDouble(value)),
            ..NumberDataPoint::default()
        }
    }

    fn histogram(&self, metric: &proto::Metric) -> HistogramDataPoint {
        let histogram = metric.get_histogram();
        let mut point = HistogramDataPoint {
            attributes: attributes(metric),
            start_time_unix_nano: self.began,
            time_unix_nano: self.now,
            count: histogram.get_sample_count(),
            sum: Some(histogram.get_sample_sum()),
            ..HistogramDataPoint::default()
        };
        // Prometheus counts what is below each bound; OTLP, what is between two.
        let mut below = 0;
        for bucket in histogram.get_bucket() {
            point.explicit_bounds.push(bucket.upper_bound());
            point.bucket_counts.push(bucket.cumulative_count().saturating_sub(below));
            below = bucket.cumulative_count();
        }
        point.bucket_counts.push(point.count.saturating_sub(below));
        point
    }
}

fn attributes(metric: &proto::Metric) -> Vec<KeyValue> {
    let labels = metric.get_label().iter();
    labels.map(|label: &LabelPair| attribute(label.name(), label.value())).collect()
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

fn nanoseconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_nanosecond()).unwrap_or(0)
}
