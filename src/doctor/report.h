// SPDX-License-Identifier: Apache-2.0
// A diagnosis, as people and programs want it. Text of the host is hostile: here it becomes printable, or is escaped.
#pragma once

#include <string>
#include <string_view>

#include "doctor/diagnosis.h"

namespace shale::doctor {

/// For a terminal (`color`: ANSI colours) or a log, the worst first.
std::string report_text(const probe::Facts &facts, const Diagnosis &diagnosis, bool color);
/// One document: host, findings, unable, unread.
std::string report_json(const probe::Facts &facts, const Diagnosis &diagnosis);
/// For the textfile collector of Prometheus' node exporter: shale_doctor_findings by check and severity, shale_doctor_
/// unable by check, and when the facts were taken.
std::string report_prometheus(const probe::Facts &facts, const Diagnosis &diagnosis);
/// node-problem-detector takes the first 80 bytes of a line: the worst finding, and how many more there are.
std::string report_line(const Diagnosis &diagnosis);
/// A page of its own, without scripts or anything from elsewhere: the report, and a treemap of where the space of each
/// file system with stores is.
std::string report_html(const probe::Facts &facts, const Diagnosis &diagnosis);
/// One finding of that page, and the page's style sheet: for another page.
std::string finding_html(const Diagnosis::Item &item);
std::string_view report_style() noexcept;

/// The page of a check in docs/checks, Markdown.
std::string check_page(const Check &check);

} // namespace shale::doctor
