//! The figures as one page: tables and plots, with nothing from elsewhere. Pure.

use std::fmt::Write as _;

use super::{modes::Mode, plot, report::Report};

/// Names and texts of all plots.
pub(super) fn plots(report: &Report) -> Vec<(String, String)> {
    let is_scale = |name: &str| name.contains("/scale");
    let mut plots = Vec::new();
    for family in ["ipv4", "ipv6"] {
        for (tax, file, title) in [
            (false, "ratios", "Cost of Services by direct access's"),
            (true, "others", "Cost of traffic that is no Service's"),
        ] {
            let wanted = |name: &str| name.contains(family) && name.contains("no-service") == tax && !is_scale(name);
            let scenarios: Vec<_> = report.scenarios.iter().filter(|scenario| wanted(&scenario.name)).collect();
            if !scenarios.is_empty() {
                let title =
                    format!("{title}, {family} (lower is better; a dot is the median, a line eight of ten rounds)");
                plots.push((format!("{file}-{family}.svg"), plot::ratios(&title, &scenarios)));
            }
        }
    }
    for scenario in report.scenarios.iter().filter(|scenario| is_scale(&scenario.name)) {
        let work = scenario.name.split('/').next().unwrap_or_default();
        let title = format!("Processor time of an operation by number of Services: {}", scenario.name);
        plots.push((format!("scale-{work}.svg"), plot::scale(&title, scenario)));
    }
    plots
}

/// The page.
pub(super) fn page(report: &Report) -> String {
    let machine = &report.machine;
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>berrylb: data path</title>\n<style>{STYLE}\
         </style></head><body>\n<h1>berrylb: data path</h1>\n<p>{}, {} processors, Linux {}, {}. {} passes of {} rounds \
         of {} ms, in {} s. {}; {}.</p>\n<ul>",
        escape(&machine.processor),
        machine.processors,
        escape(&machine.kernel),
        escape(&machine.date),
        report.passes,
        report.rounds,
        report.slice_millis,
        report.seconds,
        report.cluster.about(),
        escape(&report.tools.join(", "))
    );
    for mode in Mode::ALL {
        let _infallible = write!(out, "<li><b>{}</b>: {}</li>", mode.name(), escape(mode.about()));
    }
    for (mode, why) in &report.absent {
        let _infallible = write!(out, "<li><b>{} was not measured</b>: {}</li>", mode.name(), escape(why));
    }
    out.push_str("</ul>\n");
    for (_, svg) in plots(report) {
        out.push_str(&svg);
    }
    out.push_str(
        "<table><tr><th>scenario<th>mode<th>Services<th>µs<th>8 of 10 within<th>ratio<th>8 of 10 within<th>noise<th>p50 \
         µs<th>p99 µs<th>busy</tr>\n",
    );
    for scenario in &report.scenarios {
        for figures in &scenario.modes {
            let (nanos, ratio) = (figures.nanos, figures.ratio.middle);
            let _infallible = writeln!(
                out,
                "<tr><td>{}<td>{}<td>{}<td>{:.2}<td>{:.2} – {:.2}<td>{:.3}<td>{:.3} – {:.3}<td>±{:.3}<td>{:.1}<td>{:.1}\
                 <td>{:.0} %</tr>",
                escape(&scenario.name),
                figures.mode.name(),
                figures.services,
                nanos.median / 1e3,
                nanos.p10 / 1e3,
                nanos.p90 / 1e3,
                ratio.median,
                ratio.p10,
                ratio.p90,
                figures.ratio.noise,
                figures.times.p50,
                figures.times.p99,
                figures.busy * 100.0
            );
        }
    }
    out.push_str("</table>\n");
    singles(report, &mut out);
    out + "</body></html>\n"
}

/// Single packets, and programs.
fn singles(report: &Report, out: &mut String) {
    if let Some(packets) = &report.packets {
        let _infallible = writeln!(
            out,
            "<h2>Single packets</h2><p>Nanoseconds of a packet in a test run, above an empty program (tc {:.1}, XDP {:.1}), \
             with {} Services.</p><table><tr><th>packet<th>does<th>ns<th>8 of 10 within</tr>",
            packets.empty_tc, packets.empty_xdp, packets.services
        );
        for packet in &packets.packets {
            let (what, does) = packet.name.rsplit_once(", ").unwrap_or((&packet.name, ""));
            let nanos = packet.nanos;
            let _infallible = writeln!(
                out,
                "<tr><td>{}<td>{}<td>{:.1}<td>{:.1} – {:.1}</tr>",
                escape(what),
                escape(does),
                nanos.median,
                nanos.p10,
                nanos.p90
            );
        }
        out.push_str("</table>\n");
    }
    if !report.programs.is_empty() {
        out.push_str(
            "<h2>Programs</h2><table><tr><th>program<th>verified instructions<th>bytes of machine code</tr>\n",
        );
        for program in &report.programs {
            let verified =
                program.verified_instructions.map_or_else(|| "not told".to_owned(), |count| count.to_string());
            let _infallible =
                writeln!(out, "<tr><td>{}<td>{verified}<td>{}</tr>", escape(&program.name), program.jited_bytes);
        }
        out.push_str("</table>\n");
    }
}

const STYLE: &str = "body{font:14px sans-serif;margin:2em;max-width:70em}svg{display:block;margin:1em 0;max-width:100%}\
                     table{border-collapse:collapse}td,th{padding:2px 8px;border-bottom:1px solid #ddd;text-align:right}\
                     td:first-child,td:nth-child(2){text-align:left}";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_machines_call_themselves_is_text() {
        assert_eq!(escape("<b> & co"), "&lt;b&gt; &amp; co");
    }
}
