# fish completion for blockgate; `blockgate completion fish | source`
function __blockgate_complete
    env _BLOCKGATE_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] \
        _TYPER_COMPLETE_ARGS=(commandline -cp) blockgate 2>/dev/null
end
complete --command blockgate --no-files --arguments "(__blockgate_complete get-args)" \
    --condition "__blockgate_complete is-args"
