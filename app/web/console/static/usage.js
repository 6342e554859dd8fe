/* The plots of the usage page, drawn from the same route that programs use: /api/v1/usage/series. */

import { api, t } from "./api.js";
import { show } from "./console.js";

const language = document.documentElement.lang;
const HEIGHT = 200;
const DAY = 86400;

const number = (value) => new Intl.NumberFormat(language, { maximumFractionDigits: 6 }).format(value);
const dollars = (value) => (value === null ? t("unknown", "알 수 없음") : `$${number(value)}`);
const took = (ms) => (ms === null ? "–" : ms < 1000 ? `${number(Math.round(ms))} ms` : `${number(Math.round(ms / 10) / 100)} s`);
const usd = (point) => (point.cost_usd === null ? null : Number(point.cost_usd));

/** What each plot shows: its lines, how a value is written, and its sum in words. */
const PLOTS = {
  requests: {
    lines: [
      [t("Requests", "요청"), "--one", (point) => point.requests],
      [t("Failed", "실패"), "--two", (point) => point.failed],
    ],
    bars: true,
    write: number,
    sum: (all) => t(`${number(all.requests)}, ${number(all.failed)} failed`, `${number(all.requests)}건, 실패 ${number(all.failed)}건`),
  },
  tokens: {
    lines: [
      [t("In", "입력"), "--one", (point) => point.input_tokens],
      [t("Out", "출력"), "--three", (point) => point.output_tokens],
    ],
    write: number,
    sum: (all) => t(`${number(all.input_tokens)} in, ${number(all.output_tokens)} out`, `입력 ${number(all.input_tokens)}, 출력 ${number(all.output_tokens)}`),
  },
  cost: {
    lines: [[t("US dollars", "미국 달러"), "--one", usd]],
    bars: true,
    write: dollars,
    sum: (all) =>
      // To the last digit, as the ledger has it.
      (all.cost_usd === null ? dollars(null) : `$${all.cost_usd}`) +
      (all.requests_of_unknown_cost
        ? t(`, unknown for ${number(all.requests_of_unknown_cost)} requests`, `, 비용을 알 수 없는 요청 ${number(all.requests_of_unknown_cost)}건`)
        : ""),
  },
  latency: {
    lines: [
      [t("Median", "중앙값"), "--one", (point) => point.p50_ms],
      ["95 %", "--two", (point) => point.p95_ms],
      [t("First text, median", "첫 텍스트 중앙값"), "--three", (point) => point.first_token_p50_ms],
    ],
    write: took,
    sum: (all) => t(`median ${took(all.p50_ms)}, 95 % within ${took(all.p95_ms)}`, `중앙값 ${took(all.p50_ms)}, 95 %가 ${took(all.p95_ms)} 이내`),
  },
};

/** Steps of days are days of UTC, as the server counts them; shorter ones are told by the reader's clock. */
function clock(step, options) {
  const zone = step >= DAY ? { timeZone: "UTC" } : {};
  const format = new Intl.DateTimeFormat(language, { ...options, ...zone });
  return (seconds) => format.format(new Date(seconds * 1000));
}

function momentOf(step) {
  const time = step < DAY ? { hour: "2-digit", minute: "2-digit" } : {};
  return clock(step, { year: "numeric", month: "short", day: "numeric", ...time });
}

function marksOf(step) {
  const time = clock(step, { hour: "2-digit", minute: "2-digit" });
  const day = clock(step, { month: language === "ko" ? "numeric" : "short", day: "numeric" });
  return (_, splits, axis, space, increment) => splits.map(increment >= DAY ? day : time);
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function lineOf([label, name, value], plot) {
  const stroke = colour(name);
  const drawn = plot.bars
    ? { fill: stroke, paths: uPlot.paths.bars({ size: [0.8, 40] }), points: { show: false } }
    : { width: 2, spanGaps: false };
  return { label, stroke, value: (_, shown) => (shown === null || shown === undefined ? "–" : plot.write(shown)), ...drawn };
}

/** In words, for those who do not see the plot: its sum, and when the first line was highest. */
function inWords(plot, told) {
  const [label, , value] = plot.lines[0];
  const highest = told.points.reduce((best, point) => (value(point) > value(best) ? point : best), told.points[0]);
  const peak = highest && value(highest) !== null ? value(highest) : null;
  const moment = momentOf(told.step_seconds);
  const most = peak === null ? "" : t(
    `. ${label}: the most was ${plot.write(peak)}, at ${moment(Date.parse(highest.at) / 1000)}`,
    `. ${label}: 가장 큰 값은 ${moment(Date.parse(highest.at) / 1000)}의 ${plot.write(peak)}`,
  );
  return plot.sum(told.sums) + most;
}

function draw(figure, told) {
  const plot = PLOTS[figure.dataset.plot];
  const place = figure.querySelector("[data-drawn]");
  const step = told.step_seconds;
  const moment = momentOf(step);
  const axis = { stroke: colour("--dim"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
  figure.querySelector("[data-sum]").textContent = plot.sum(told.sums);
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", inWords(plot, told));
  place.replaceChildren();
  const data = [told.points.map((point) => Date.parse(point.at) / 1000), ...plot.lines.map(([, , value]) => told.points.map(value))];
  return new uPlot(
    {
      width: place.clientWidth,
      height: HEIGHT,
      ...(step >= DAY ? { tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC") } : {}),
      cursor: { sync: { key: "usage" }, drag: { x: false, y: false } },
      scales: { y: { range: (_, least, most) => [0, most > 0 ? most * 1.1 : 1] } },
      axes: [
        { ...axis, space: 64, values: marksOf(step) },
        { ...axis, size: 84, values: (_, splits) => splits.map((value) => (value === null ? "" : plot.write(value))) },
      ],
      series: [{ label: t("When", "시각"), value: (_, shown) => (shown ? moment(shown) : "–") }, ...plot.lines.map((line) => lineOf(line, plot))],
    },
    data,
    place,
  );
}

/** All values as a table, those steps left out in which nothing was asked. */
function tabulate(place, told) {
  const table = document.createElement("table");
  const columns = Object.values(PLOTS).flatMap((plot) => plot.lines.map(([label, , value]) => [label, (point) => plot.write(value(point))]));
  const moment = momentOf(told.step_seconds);
  const add = (row, tag, text, attributes) => row.append(Object.assign(document.createElement(tag), { textContent: text, ...attributes }));
  const head = table.createTHead().insertRow();
  add(head, "th", t("When", "시각"), { scope: "col" });
  for (const [label] of columns) add(head, "th", label, { scope: "col", className: "number" });
  const body = table.createTBody();
  for (const point of told.points.filter((one) => one.requests)) {
    const row = body.insertRow();
    add(row, "th", moment(Date.parse(point.at) / 1000), { scope: "row" });
    for (const [, write] of columns) add(row, "td", write(point), { className: "number" });
  }
  place.replaceChildren(table);
}

async function begin(place) {
  let told;
  try {
    told = await api("GET", `api/v1/usage/series?${place.dataset.query}`);
  } catch (error) {
    show(error);
    return;
  } finally {
    place.removeAttribute("aria-busy");
  }
  const figures = [...place.querySelectorAll("[data-plot]")];
  let drawn = [];
  const redraw = () => {
    drawn.forEach((one) => one.destroy());
    drawn = figures.map((figure) => draw(figure, told));
  };
  redraw();
  tabulate(document.querySelector("#values .table"), told);
  new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("resize", () => drawn.forEach((one) => one.setSize({ width: one.root.parentElement.clientWidth, height: HEIGHT })));
}

const place = document.getElementById("plots");
if (place) begin(place);
