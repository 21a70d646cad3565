// Score columns as the server lists them (`score_columns` of /api/run): filter fields and captions.
import { make, percent } from "./dom.js";

// Two fields, lowest and highest value, of each filterable column; named as the server names them.
export function scoreFields(columns) {
  return columns.filter((column) => column.filterable).map(({ name, title, help, low, high }) => {
    const field = (end, limit) => make("input", { type: "number", name: `${name}_${end}`, min: low, max: high ?? "", step: high === 1 ? "0.05" : "any", defaultValue: limit ?? "", "aria-label": `${end}est ${title}` });
    return make("label", { title: `Images with a mask in this range. ${help}` }, `mask ${title} `, field("low", low), " – ", field("high", high));
  });
}

// Tells whether a name of a filter is that of such a field.
export const isScoreField = (name) => /_(low|high)$/.test(name);

const text = (column, mask) => (`${column.title} ${column.percent ? percent(mask[column.name]) : mask[column.name].toFixed(2)}`);

// The captions of a mask on a page, viewer or try: [column, text] of each column that it shows.
export const captions = (columns, page, mask) => columns.filter(({ pages }) => pages.includes(page)).map((column) => [column, text(column, mask)]);
