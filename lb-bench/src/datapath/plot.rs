//! Plots of the figures as SVG. Pure.

use std::fmt::Write as _;

use super::{
    figures::{ModeFigures, ScenarioFigures},
    modes::Mode,
};

const WIDTH: f64 = 900.0;
/// Of a row of ratios, and of the names at their left.
const ROW: f64 = 14.0;
const LEFT: f64 = 250.0;
const TOP: f64 = 46.0;
/// Ratios beyond it are drawn at the edge, with their number.
const RATIO_MAX: f64 = 2.5;
const RATIO_MIN: f64 = 0.5;

const fn colour(mode: Mode) -> &'static str {
    match mode {
        Mode::Direct => "#777777",
        Mode::Socket => "#1b9e77",
        Mode::Packet => "#2166ac",
        Mode::Delivery => "#92c5de",
        Mode::Both => "#7b3294",
        Mode::Xdp => "#00a0c8",
        Mode::Dsr => "#66a61e",
        Mode::Iptables => "#d6604d",
        Mode::Nftables => "#e6ab02",
        Mode::KubeProxyIpt => "#8c2d19",
        Mode::KubeProxyNft => "#a6761d",
    }
}

fn open(height: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<title>{title}</title>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"18\" font-size=\"14\">{title}</text>\n"
    )
}

fn legend(modes: &[Mode], y: f64, out: &mut String) {
    let mut x = LEFT;
    for mode in modes {
        let _infallible = writeln!(
            out,
            "<circle cx=\"{x}\" cy=\"{}\" r=\"4\" fill=\"{}\"/><text x=\"{}\" y=\"{y}\">{}</text>",
            y - 4.0,
            colour(*mode),
            x + 8.0,
            mode.name()
        );
        x += 80.0;
    }
}

/// Modes of these scenarios, in order, without repeats.
fn modes_of(scenarios: &[&ScenarioFigures]) -> Vec<Mode> {
    let is_there = |mode: &Mode| scenarios.iter().any(|s| s.modes.iter().any(|figures| figures.mode == *mode));
    Mode::ALL.into_iter().filter(is_there).collect()
}

/// Each scenario's ratios to direct: a dot for the median, a line for what eight of ten rounds are within.
pub(super) fn ratios(title: &str, scenarios: &[&ScenarioFigures]) -> String {
    let rows: usize = scenarios.iter().map(|scenario| scenario.modes.len()).sum();
    let height = TOP + rows as f64 * ROW + 30.0;
    let mut out = open(height, title);
    let modes: Vec<Mode> = modes_of(scenarios).into_iter().filter(|mode| *mode != Mode::Direct).collect();
    legend(&modes, 36.0, &mut out);
    let x = |ratio: f64| {
        LEFT + (ratio.clamp(RATIO_MIN, RATIO_MAX) - RATIO_MIN) / (RATIO_MAX - RATIO_MIN) * (WIDTH - LEFT - 60.0)
    };
    for tenths in (5..=25).step_by(5) {
        let ratio = f64::from(tenths) / 10.0;
        let stroke = if tenths == 10 { "#000000" } else { "#cccccc" };
        let (at, bottom) = (x(ratio), height - 20.0);
        let _infallible = writeln!(
            out,
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"{stroke}\"/>\
             <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{ratio:.1}</text>",
            height - 6.0
        );
    }
    let mut y = TOP + ROW;
    for scenario in scenarios {
        let _infallible = writeln!(out, "<text x=\"10\" y=\"{y:.1}\">{}</text>", scenario.name);
        for figures in scenario.modes.iter().filter(|figures| figures.mode != Mode::Direct) {
            ratio(figures, &x, y, &mut out);
            y += ROW;
        }
        y += ROW;
    }
    out + "</svg>\n"
}

fn ratio(figures: &ModeFigures, x: &dyn Fn(f64) -> f64, y: f64, out: &mut String) {
    let middle = figures.ratio.middle;
    let (colour, at) = (colour(figures.mode), x(middle.median));
    let number = |value: f64| if value > 10.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    let _infallible = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{2:.1}\" x2=\"{:.1}\" y2=\"{2:.1}\" stroke=\"{colour}\" stroke-width=\"2\" \
         stroke-opacity=\"0.4\"/><circle cx=\"{at:.1}\" cy=\"{2:.1}\" r=\"4\" fill=\"{colour}\"/>\
         <text x=\"{3:.1}\" y=\"{4:.1}\" fill=\"{colour}\">{5}</text>",
        x(middle.p10),
        x(middle.p90),
        y - 4.0,
        WIDTH - 50.0,
        y,
        number(middle.median)
    );
}

/// Time of an operation by number of Services, both by logarithm.
pub(super) fn scale(title: &str, scenario: &ScenarioFigures) -> String {
    const HEIGHT: f64 = 380.0;
    const BOTTOM: f64 = HEIGHT - 40.0;
    let mut out = open(HEIGHT, title);
    let modes = modes_of(&[scenario]);
    legend(&modes, 36.0, &mut out);
    let most = scenario.modes.iter().map(|figures| figures.services).max().unwrap_or(1).max(10);
    let micros = |figures: &ModeFigures| figures.nanos.median / 1e3;
    let (low, high) = scenario.modes.iter().map(micros).fold((f64::MAX, 1.0), |(l, h), t| (t.min(l), t.max(h)));
    let (low, high) = (low * 0.8, high * 1.25);
    let x = |services: u32| 70.0 + f64::from(services).ln() / f64::from(most).ln() * (WIDTH - 140.0);
    let y = |micros: f64| BOTTOM - (micros / low).ln() / (high / low).ln() * (BOTTOM - TOP);
    let mut sizes: Vec<u32> = scenario.modes.iter().map(|figures| figures.services).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for services in sizes {
        let at = x(services);
        let _infallible = writeln!(
            out,
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{BOTTOM}\" stroke=\"#cccccc\"/>\
             <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{services} Services</text>",
            BOTTOM + 16.0
        );
    }
    let ticks = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0];
    for tick in ticks.into_iter().filter(|tick| (low..=high).contains(tick)) {
        let at = y(tick);
        let _infallible = writeln!(
            out,
            "<line x1=\"70\" y1=\"{at:.1}\" x2=\"{}\" y2=\"{at:.1}\" stroke=\"#cccccc\"/>\
             <text x=\"62\" y=\"{:.1}\" text-anchor=\"end\">{tick} µs</text>",
            WIDTH - 70.0,
            at + 4.0
        );
    }
    for mode in modes {
        let mut points: Vec<(u32, f64)> = Vec::new();
        points.extend(scenario.modes.iter().filter(|f| f.mode == mode).map(|f| (f.services, micros(f))));
        if let (Mode::Direct, [(_, time)]) = (mode, &points[..]) {
            // It knows no Services, so it is the same everywhere.
            points = vec![(1, *time), (most, *time)];
        }
        let path: Vec<String> = points.iter().map(|(n, time)| format!("{:.1},{:.1}", x(*n), y(*time))).collect();
        let _infallible = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
            path.join(" "),
            colour(mode)
        );
        for (n, time) in points {
            let (x, y) = (x(n), y(time));
            let _infallible = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{}\"/>", colour(mode));
        }
    }
    out + "</svg>\n"
}
