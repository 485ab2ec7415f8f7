//! The figures as plots.

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::numbers::{micros, number, thousands};
use super::tables::by_store;
use crate::contenders::Kind;
use crate::measure::{CATCH_UP_CASE, COMMAND_CASES};
use crate::results::{Fault, Key, Measure, Results, Who};

pub const COMMANDS: &str = "commands.svg";
pub const RELAXED: &str = "commands-relaxed.svg";
pub const CATCH_UP: &str = "catch-up.svg";
pub const GUARDED: &str = "guards.svg";

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 960;
/// Where the names of contenders stand.
const NAMES: u32 = 250;
const BAR: u32 = 13;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 40, 40);
const FAINT: RGBColor = RGBColor(225, 225, 225);
const WRONG: RGBColor = RGBColor(200, 30, 30);

/// A bar and what stands at its end.
struct Bar {
    value: f64,
    words: String,
    color: RGBColor,
}

/// The bars of one contender.
struct Group {
    name: String,
    bars: Vec<Bar>,
}

/// All plots that have something to show, by file name.
pub fn all(results: &Results) -> anyhow::Result<Vec<(&'static str, String)>> {
    let mut plots = Vec::new();
    for (name, title, durable) in [
        (COMMANDS, "Commands per second, durable", true),
        (RELAXED, "Commands per second, without waiting for the disk", false),
    ] {
        let groups = commands(results, durable);
        let legend: Vec<_> = COMMAND_CASES.iter().enumerate().map(|(at, (case, ..))| (*case, at)).collect();
        plots.extend(bars(title, &groups, &legend)?.map(|svg| (name, svg)));
    }
    let title = "Building a read model, events per second";
    plots.extend(bars(title, &catch_up(results), &[])?.map(|svg| (CATCH_UP, svg)));
    plots.extend(guarded(results)?.map(|svg| (GUARDED, svg)));
    Ok(plots)
}

/// Ours are blue, by hand is grey, peers are orange; the more tasks, the darker, and one account is darkest.
fn color(kind: Kind, shade: usize) -> RGBColor {
    let shades = match kind {
        Kind::Ours => [(158, 202, 225), (107, 174, 214), (49, 130, 189), (8, 69, 148)],
        Kind::Limit => [(215, 215, 215), (180, 180, 180), (140, 140, 140), (95, 95, 95)],
        Kind::Peer => [(253, 208, 162), (253, 174, 107), (241, 105, 19), (166, 54, 3)],
    };
    let (red, green, blue) = shades[shade.min(3)];
    RGBColor(red, green, blue)
}

fn bar(results: &Results, who: &Who, key: Key<'_>, shade: usize) -> Option<Bar> {
    let figure = results.find(key)?;
    let value = figure.median()?;
    match &figure.fault {
        None => Some(Bar { value, words: number(value), color: color(who.kind, shade) }),
        Some(Fault::Wrong(_)) => Some(Bar { value, words: format!("{} WRONG", number(value)), color: WRONG }),
        Some(Fault::Failed(_) | Fault::Absent) => None,
    }
}

fn group(who: &Who, bars: Vec<Bar>) -> Option<Group> {
    (!bars.is_empty()).then(|| Group { name: format!("{} ({})", who.name, who.store), bars })
}

fn commands(results: &Results, durable: bool) -> Vec<Group> {
    let of = |who: &Who| {
        let bars = COMMAND_CASES.iter().enumerate().filter_map(|(shade, (case, ..))| {
            bar(results, who, Key { measure: Measure::Commands, case, durable, contender: &who.name }, shade)
        });
        group(who, bars.collect())
    };
    by_store(&results.contenders).into_iter().filter_map(of).collect()
}

fn catch_up(results: &Results) -> Vec<Group> {
    let of = |who: &Who| {
        let (measure, case) = (Measure::CatchUp, CATCH_UP_CASE);
        let bar = bar(results, who, Key { measure, case, durable: true, contender: &who.name }, 2);
        group(who, bar.into_iter().collect())
    };
    by_store(&results.contenders).into_iter().filter_map(of).collect()
}

/// Powers of ten around the values.
fn decades(values: impl Iterator<Item = f64> + Clone) -> Option<(f64, f64)> {
    let least = values.clone().filter(|value| *value > 0.0).reduce(f64::min)?;
    let most = values.reduce(f64::max)?;
    let power = |exponent: f64| 10_f64.powf(exponent);
    let (low, high) = (power(least.log10().floor()), power(most.log10().ceil()));
    Some((low, if high > low { high } else { low * 10.0 }))
}

fn text<'a>(size: u32, color: &RGBColor) -> TextStyle<'a> {
    (FONT, size).into_font().color(color)
}

fn drawn(height: u32, draw: impl FnOnce(&Area<'_>) -> anyhow::Result<()>) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE).map_err(fault)?;
        draw(&area)?;
        area.present().map_err(fault)?;
    }
    Ok(svg)
}

fn fault(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("a plot cannot be drawn: {error}")
}

/// Horizontal bars on a logarithmic scale.
fn bars(title: &str, groups: &[Group], legend: &[(&str, usize)]) -> anyhow::Result<Option<String>> {
    let values = groups.iter().flat_map(|group| group.bars.iter().map(|bar| bar.value));
    let Some((low, high)) = decades(values) else { return Ok(None) };
    // A gap of half a bar between groups.
    let slots: f64 = groups.iter().map(|group| group.bars.len() as f64 + 0.5).sum();
    let plot = (slots * f64::from(BAR)) as u32;
    let top = if legend.is_empty() { 40 } else { 62 };
    drawn(top + plot + 40, |area| {
        area.draw_text(title, &text(19, &INK), (10, 10)).map_err(fault)?;
        for (at, (case, shade)) in legend.iter().enumerate() {
            let x = NAMES as i32 + at as i32 * 170;
            let square = [(x, 40), (x + 11, 51)];
            area.draw(&Rectangle::new(square, color(Kind::Ours, *shade).filled())).map_err(fault)?;
            area.draw_text(case, &text(13, &INK), (x + 16, 38)).map_err(fault)?;
        }
        let mut chart = ChartBuilder::on(area)
            .margin_top(top)
            .margin_right(90)
            .margin_left(NAMES)
            .x_label_area_size(30)
            .build_cartesian_2d((low..high).log_scale(), slots..0.0)
            .map_err(fault)?;
        let mut mesh = chart.configure_mesh();
        mesh.disable_y_mesh().disable_y_axis().light_line_style(TRANSPARENT).bold_line_style(FAINT);
        mesh.x_label_formatter(&|value| thousands(*value as u64)).label_style(text(12, &INK));
        mesh.draw().map_err(fault)?;
        let mut at = 0.25;
        let end = Pos::new(HPos::Right, VPos::Center);
        let behind = Pos::new(HPos::Left, VPos::Center);
        for group in groups {
            let middle = at + group.bars.len() as f64 / 2.0;
            let (_, y) = chart.backend_coord(&(low, middle));
            let words = text(13, &INK).pos(end);
            area.draw_text(&group.name, &words, (NAMES as i32 - 8, y)).map_err(fault)?;
            for bar in &group.bars {
                let corners = [(low, at + 0.08), (bar.value, at + 0.92)];
                let drawn = std::iter::once(Rectangle::new(corners, bar.color.filled()));
                chart.draw_series(drawn).map_err(fault)?;
                let (x, y) = chart.backend_coord(&(bar.value, at + 0.5));
                area.draw_text(&bar.words, &text(11, &INK).pos(behind), (x + 4, y)).map_err(fault)?;
                at += 1.0;
            }
            at += 0.5;
        }
        Ok(())
    })
    .map(Some)
}

/// Lines over the size of the log, both on logarithmic scales.
fn guarded(results: &Results) -> anyhow::Result<Option<String>> {
    let of = |who: &Who| {
        let point = |size: &u64| {
            let (measure, case) = (Measure::Guarded, size.to_string());
            let figure = results.find(Key { measure, case: &case, durable: true, contender: &who.name })?;
            Some((*size as f64, figure.sound()?))
        };
        results.plan.growth_sizes.iter().filter_map(point).collect::<Vec<_>>()
    };
    let lines: Vec<_> = results.logs.iter().map(|who| (who, of(who))).collect();
    let points = || lines.iter().flat_map(|(_, points)| points.iter().copied());
    let Some(high_low) = decades(points().map(|(_, value)| value)) else { return Ok(None) };
    let sizes = results.plan.growth_sizes.iter().map(|&size| size as f64);
    // Room for a point of its own at each end.
    let (first, last) =
        (sizes.clone().reduce(f64::min).unwrap_or(1.0) / 1.5, sizes.reduce(f64::max).unwrap_or(10.0) * 1.5);
    drawn(420, |area| {
        let title = "One guarded append, by events in the log";
        area.draw_text(title, &text(19, &INK), (10, 10)).map_err(fault)?;
        let mut chart = ChartBuilder::on(area)
            .margin_top(45)
            .margin_right(260)
            .margin_left(10)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d((first..last).log_scale(), (high_low.0..high_low.1).log_scale())
            .map_err(fault)?;
        let mut mesh = chart.configure_mesh();
        mesh.light_line_style(TRANSPARENT).bold_line_style(FAINT).label_style(text(12, &INK));
        mesh.x_label_formatter(&|size| thousands(*size as u64)).y_label_formatter(&|&time| micros(time));
        mesh.draw().map_err(fault)?;
        for (at, (who, points)) in lines.iter().filter(|(_, points)| !points.is_empty()).enumerate() {
            // Of one kind there may be several.
            let color = color(who.kind, 3 - at % 3);
            let line = PathElement::new(points.clone(), color.stroke_width(2));
            chart.draw_series(std::iter::once(line)).map_err(fault)?;
            let dots = points.iter().map(|&point| Circle::new(point, 4, color.filled()));
            chart.draw_series(dots).map_err(fault)?;
            let (x, y) = (WIDTH as i32 - 250, 60 + at as i32 * 20);
            area.draw(&Rectangle::new([(x, y), (x + 11, y + 11)], color.filled())).map_err(fault)?;
            let name = format!("{} ({})", who.name, who.store);
            area.draw_text(&name, &text(13, &INK), (x + 16, y - 2)).map_err(fault)?;
        }
        Ok(())
    })
    .map(Some)
}
