# fish completion of labk: labk completion fish | source, or into ~/.config/fish/completions/labk.fish for good
function __labk_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    # kubectl's last line is a number
    set -l found ($words[1] __complete $words[2..-1] "$current" 2>/dev/null | string match -v -r '^(:.*)?$')
    if set -q found[1]
        printf '%s\n' $found
    else
        __fish_complete_path "$current"
    end
end
complete -c labk -f -a '(__labk_complete)'
