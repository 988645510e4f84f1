// varvectl: looks into a varve-store and works with it by hand.
#include <cstdio>

#include "client/console/output.h"
#include "client/varvectl/command.h"
#include "kvstore/base/program.h"
#include "kvstore/base/version.h"

namespace varve::varvectl {
namespace {

int Main(int argc, char** argv) {
  base::SetUpProcess();
  CLI::App app{"Looks into a varve-store and works with it by hand.", "varvectl"};
  Globals globals;
  Action action;
  app.add_option("--store", globals.store, "Address of the store: host:port or unix:/path")
      ->envname("VARVE_STORE")
      ->capture_default_str();
  app.add_option("--namespace", globals.key_namespace, "Objects and contexts of which namespace")
      ->capture_default_str();
  app.add_option("--timeout", globals.timeout, "Give up on the store after this long")
      ->capture_default_str();
  app.add_flag("--json", globals.json, "Print one JSON document instead of tables");
  app.set_version_flag("--version", base::VersionText("varvectl"));
  app.require_subcommand(1);
  app.footer(
      "Start with:\n"
      "  varvectl status                     is it up, how full is it\n"
      "  varvectl put greeting hello.txt     store a file under a key\n"
      "  varvectl get greeting copy.txt      and read it back\n"
      "  varvectl recall --help              which pages matter for a query, and why\n"
      "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 store unreachable,\n"
      "130 stopped by Ctrl-C.");
  AddStoreCommands(app, globals, action);
  AddTierCommands(app, globals, action);
  AddObjectCommands(app, globals, action);
  AddPrefetchCommand(app, globals, action);
  AddSnapshotCommand(app, globals, action);
  AddFileCommands(app, globals, action);
  AddContextCommands(app, globals, action);
  AddRecallCommand(app, globals, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked_for_help) {
    return app.exit(asked_for_help);
  } catch (const CLI::ParseError& error) {
    const std::vector<std::string> unknown = app.remaining();
    const std::string text = app.get_subcommands().empty() && !unknown.empty()
                                 ? "there is no command '" + unknown.front() + "'"
                                 : std::string(error.what());
    std::fprintf(stderr, "varvectl: %s - see varvectl --help\n", text.c_str());
    return kUsage;
  }
  const absl::Status done = action();
  const absl::Status written = console::FlushOutput();
  return Report(done.ok() ? written : done);
}

}  // namespace
}  // namespace varve::varvectl

int main(int argc, char** argv) { return varve::varvectl::Main(argc, argv); }
