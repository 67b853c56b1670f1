from kontext_plugin.cli.main import main

main()
