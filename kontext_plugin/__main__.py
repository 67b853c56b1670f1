from kontext_plugin.cli import main

main()
